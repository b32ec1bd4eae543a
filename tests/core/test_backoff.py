from app.core.backoff import Backoff


def test_pauses_grow_up_to_a_limit_and_start_anew() -> None:
    backoff = Backoff()
    assert backoff.rest_s == 0
    pauses = [backoff.fail() for _ in range(2000)]
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses[-2:] == [300, 300]
    assert 290 < backoff.rest_s <= 300
    backoff.reset()
    assert (backoff.rest_s, backoff.fail()) == (0, 0.2)


def test_the_fifth_failure_in_a_row_is_one_too_many() -> None:
    backoff = Backoff()
    for number in range(4):
        assert (backoff.num_failures, backoff.is_hopeless) == (number, False)
        backoff.fail()
        # It runs in between, and not for long.
        backoff.begin()
    assert backoff.is_hopeless


def test_what_ran_for_long_starts_anew() -> None:
    backoff = Backoff(stable_s=0)
    for _ in range(9):
        backoff.begin()
        assert not backoff.is_hopeless
        assert backoff.fail() == 0.2
    backoff.fail()
    assert backoff.num_failures == 2


def test_what_begins_again_knows_how_long_it_was_gone() -> None:
    backoff = Backoff()
    backoff.fail()
    assert backoff.begin() is None, "it did not run before"
    backoff.fail()
    backoff.fail()
    assert (backoff.begin() or -1) > 0
    assert backoff.begin() is None
    backoff.fail()
    backoff.reset()
    assert backoff.begin() is None, "it was not wanted meanwhile"
