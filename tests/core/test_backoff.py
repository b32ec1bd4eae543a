from app.core.backoff import Backoff


def test_pauses_grow_up_to_a_limit_and_start_anew() -> None:
    backoff = Backoff()
    assert backoff.rest_s == 0
    pauses = [backoff.fail() for _ in range(10)]
    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses[-2:] == [30, 30]
    assert 29 < backoff.rest_s <= 30
    backoff.reset()
    assert (backoff.rest_s, backoff.fail()) == (0, 0.2)
