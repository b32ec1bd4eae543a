from collections.abc import Callable
from itertools import pairwise

from app.handler.lm.pace import Pace

MOST = 2048
# Seconds that a pass over so many tokens takes.
Machine = Callable[[int], float]


def linear(num_tokens: int) -> float:
    """As a CPU."""
    return 1e-3 * num_tokens


def flat(num_tokens: int) -> float:
    """As a GPU: most of a short pass is the pass itself."""
    return 4e-3 + 1e-5 * num_tokens


def slow_to_start(num_tokens: int) -> float:
    """As a GPU that has to be made ready for every pass."""
    return 50e-3 + 2e-5 * num_tokens


def passes(machine: Machine, step_s: float, count: int, pace: Pace | None = None) -> list[int]:
    """The lengths of so many passes beside one stream."""
    pace = pace or Pace(MOST)
    pace.note_step(step_s, 1)
    lengths: list[int] = []
    for _ in range(count):
        num_tokens = pace.chunk_tokens(1, 1)
        pace.note_prefill(num_tokens, machine(num_tokens), waited_for_step=False)
        lengths.append(num_tokens)
    return lengths


def test_a_pass_takes_as_long_as_six_steps() -> None:
    for machine, step_s in ((linear, 10e-3), (flat, 2e-3)):
        *_, last = passes(machine, step_s, 20)
        assert 5 * step_s < machine(last) < 7 * step_s


def test_no_pass_on_the_way_there_takes_longer() -> None:
    for machine, step_s in ((linear, 10e-3), (flat, 2e-3)):
        assert max(map(machine, passes(machine, step_s, 20))) < 7 * step_s


def test_where_each_pass_takes_long_passes_become_few() -> None:
    lengths = passes(slow_to_start, 2e-3, 20)
    assert lengths[-1] > MOST / 2
    assert slow_to_start(lengths[-1]) <= 2 * slow_to_start(16)


def test_short_prompts_do_not_make_the_passes_of_a_long_one_short() -> None:
    pace = Pace(MOST)
    before = passes(flat, 2e-3, 10, pace)[-1]
    for _ in range(10):
        pace.note_prefill(20, flat(20), waited_for_step=False)
    assert pace.chunk_tokens(1, 1) > 0.9 * before


def test_one_slow_pass_is_soon_forgotten() -> None:
    pace = Pace(MOST)
    before = passes(linear, 10e-3, 10, pace)[-1]
    pace.note_prefill(before, 100 * linear(before), waited_for_step=False)
    assert pace.chunk_tokens(1, 1) < before
    assert passes(linear, 10e-3, 10, pace)[-1] > 0.9 * before


def test_what_became_dearer_with_the_context_becomes_cheap_again_after_it() -> None:
    pace = Pace(MOST)
    passes(linear, 10e-3, 10, pace)
    dear = passes(lambda count: 3 * linear(count), 10e-3, 10, pace)[-1]
    assert 3 * linear(dear) < 7 * 10e-3
    cheap = passes(linear, 10e-3, 10, pace)
    assert all(before <= after for before, after in pairwise(cheap))
    assert linear(cheap[-1]) > 5 * 10e-3


def test_the_more_wait_the_longer_the_pass() -> None:
    pace = Pace(MOST)
    passes(linear, 10e-3, 10, pace)
    assert pace.chunk_tokens(1, 3) > 2 * pace.chunk_tokens(1, 1)


def test_a_pass_that_holds_up_no_stream_takes_half_a_second() -> None:
    for machine, least in ((linear, 400), (flat, MOST)):
        pace = Pace(MOST)
        assert pace.chunk_tokens(0, 1) < MOST
        for _ in range(4):
            num_tokens = pace.chunk_tokens(0, 1)
            assert machine(num_tokens) <= 0.5
            pace.note_prefill(num_tokens, machine(num_tokens), waited_for_step=False)
        assert pace.chunk_tokens(0, 1) >= least


def test_passes_of_a_large_model_are_not_mostly_the_reading_of_its_weights() -> None:
    def large(num_tokens: int) -> float:
        return 0.3 + 10e-3 * num_tokens

    pace = Pace(MOST)
    for num_tokens in (16, 256):
        pace.note_prefill(num_tokens, large(num_tokens), waited_for_step=False)
    assert large(pace.chunk_tokens(0, 1)) > 10 * 0.3


def test_no_pass_is_longer_than_the_settings_say() -> None:
    pace = Pace(5)
    for num_decoding in (0, 1):
        assert pace.chunk_tokens(num_decoding, 1) == 5
    pace.note_step(10e-3, 1)
    pace.note_prefill(5, linear(5), waited_for_step=False)
    for num_decoding in (0, 1):
        assert pace.chunk_tokens(num_decoding, 1) == 5


def test_a_pass_with_the_step_in_it_takes_seven_steps() -> None:
    pace, step_s, num_tokens = Pace(MOST), 10e-3, 0
    passes(linear, step_s, 4, pace)
    for _ in range(10):
        num_tokens = pace.chunk_tokens(1, 1, is_mixed=True)
        pace.note_mixed(num_tokens, step_s + linear(num_tokens))
    assert 6 * step_s < step_s + linear(num_tokens) < 8 * step_s
    # What the step adds to these says nothing of the others.
    assert 5 * step_s < linear(pace.chunk_tokens(1, 1)) < 7 * step_s


def test_a_step_is_known_for_about_so_many_rows() -> None:
    pace = Pace(MOST)
    assert not pace.knows_step(1)
    pace.note_step(10e-3, 4)
    assert [num_rows for num_rows in range(1, 20) if pace.knows_step(num_rows)] == list(range(2, 9))
    # Of another number of rows, what was known of the first is worth nothing.
    pace.note_step(50e-3, 16)
    pace.note_prefill(100, linear(100), waited_for_step=False)
    assert linear(pace.chunk_tokens(16, 1)) > 5 * 50e-3
