import random

import pytest

from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.repetition import RepetitionGuard
from app.handler.lm.sampling.sampling import SamplingParameters
from tests.fixtures.engine_bench import bench
from tests.fixtures.tiny_lm import Loaded


def first_end(num_times: int, tokens: list[int]) -> int | None:
    """How many tokens it took."""
    guard = RepetitionGuard(num_times)
    return next((count for count, token in enumerate(tokens, 1) if guard.push(token)), None)


def expected_end(num_times: int, tokens: list[int]) -> int | None:
    for count in range(1, len(tokens) + 1):
        for period in range(1, min(64, count // num_times) + 1):
            last = tokens[count - num_times * period : count]
            if last == last[:period] * num_times:
                return count
    return None


@pytest.mark.parametrize("period", [1, 2, 7, 63, 64])
@pytest.mark.parametrize("num_times", [2, 3, 16])
def test_ends_with_the_last_repetition(period: int, num_times: int) -> None:
    loop = list(range(100, 100 + period))
    tokens = [1, 2, 3, *loop * (num_times + 2)]
    assert first_end(num_times, tokens) == 3 + num_times * period


def test_longer_loops_go_on() -> None:
    assert first_end(2, list(range(65)) * 5) is None


@pytest.mark.parametrize("seed", range(40))
def test_any_tokens(seed: int) -> None:
    draw = random.Random(seed)
    tokens = draw.choices(range(draw.choice([2, 3, 4])), k=120)
    for num_times in (2, 3, 4, 6):
        assert first_end(num_times, tokens) == expected_end(num_times, tokens)


def test_a_row_in_a_loop_ends_for_its_length_and_only_where_that_was_asked(llama: Loaded) -> None:
    forced = SamplingParameters(temperature=1.0, seed=1, logit_bias=((40, 100.0),))
    test = bench(llama)
    test.add_asking(0, PreparedGeneration([5, 6, 7], 30, forced, repetition_guard=9))
    test.add_asking(1, PreparedGeneration([5, 6, 7], 30, forced))
    test.run()
    guarded, free = test.log.completion(0), test.log.completion(1)
    assert (guarded.reason, guarded.usage.completion_tokens) == ("length", 9)
    assert (free.reason, free.usage.completion_tokens) == ("length", 30)
    assert guarded.text == llama.decode([40] * 9)
