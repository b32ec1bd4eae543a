from dataclasses import replace

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from app.handler.lm.batch import BatchRow, DecodeBatch, StepToken
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.sampling.sampling import RowSampler, SamplingParameters
from tests.fixtures.tiny_lm import Loaded

GREEDY = SamplingParameters(temperature=0.0)
NUM_STEPS = 24
PROMPTS = (
    [5, 6, 7],
    [(11 * place) % 900 for place in range(45)],
    [9],
    [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2],
)


def join(batch: DecodeBatch, loaded: Loaded, rows: dict[int, list[int]], asked: SamplingParameters = GREEDY) -> None:
    """Prefill these prompts together and let them decode."""
    cache = BatchCache()
    for _ in rows:
        cache.extend(BatchCache(make_prompt_cache(loaded.model)))
    if any(len(prompt) > 1 for prompt in rows.values()):
        cache.feed(loaded.model, [prompt[:-1] for prompt in rows.values()])
    joining = [BatchRow(row_id, prompt[-1], RowSampler(asked, prompt)) for row_id, prompt in rows.items()]
    batch.join(joining, cache)


def steps(batch: DecodeBatch, count: int, told: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """The tokens of each row over some steps, after those already told."""
    told = {} if told is None else told
    for _ in range(count):
        for one in batch.step():
            assert one.token is not None
            told.setdefault(one.row_id, []).append(one.token)
    return told


@pytest.mark.parametrize(
    "groups", [[[0, 1, 3], [2]], [[0], [1], [2], [3]], [[1], [0, 3], [2]], [[0, 1], [2], [3]], [[2], [3, 1, 0]]]
)
def test_rows_that_join_alone_or_together_are_told_what_mlx_lm_says(batched: Loaded, groups: list[list[int]]) -> None:
    batch = DecodeBatch(batched.model)
    told: dict[int, list[int]] = {}
    for group in groups:
        join(batch, batched, {row: PROMPTS[row] for row in group})
        steps(batch, 3, told)
    steps(batch, NUM_STEPS, told)
    for row, prompt in enumerate(PROMPTS):
        assert told[row] == batched.greedy(prompt, len(told[row])), row


@pytest.mark.parametrize("removed", [{0}, {1}, {3}, {0, 3}, {1, 2}, {0, 1, 2}])
def test_rows_that_leave_are_not_missed(batched: Loaded, removed: set[int]) -> None:
    batch = DecodeBatch(batched.model)
    for row, prompt in enumerate(PROMPTS):
        join(batch, batched, {row: prompt})
    told = steps(batch, 5)
    batch.remove(removed)
    assert len(batch) == len(PROMPTS) - len(removed)
    join(batch, batched, {9: PROMPTS[1]})
    steps(batch, NUM_STEPS, told)
    for row, prompt in [*enumerate(PROMPTS), (9, PROMPTS[1])]:
        assert told[row] == batched.greedy(prompt, len(told[row])), row
        assert len(told[row]) == (4 if row in removed else NUM_STEPS - 1 if row == 9 else NUM_STEPS + 4)


def test_no_rows_no_tokens(llama: Loaded) -> None:
    batch = DecodeBatch(llama.model)
    assert (batch.step(), len(batch)) == ([], 0)
    batch.remove({1})
    join(batch, llama, {1: [5]})
    batch.remove({1})
    assert (batch.step(), len(batch)) == ([], 0)


def test_a_rows_first_token_comes_with_its_second_step(llama: Loaded) -> None:
    batch = DecodeBatch(llama.model)
    join(batch, llama, {1: [5, 6]})
    assert batch.step() == []
    first, second = llama.greedy([5, 6], 2)
    join(batch, llama, {2: [7]})
    assert batch.step() == [StepToken(1, first)]
    assert batch.step() == [StepToken(1, second), StepToken(2, llama.greedy([7], 1)[0])]


def test_a_row_that_leaves_before_its_first_step(llama: Loaded) -> None:
    batch = DecodeBatch(llama.model)
    join(batch, llama, {1: [5, 6]})
    join(batch, llama, {2: [7, 8]})
    batch.remove({2, 99})
    assert steps(batch, 9) == {1: llama.greedy([5, 6], 8)}


def test_a_cleared_batch_starts_anew(llama: Loaded) -> None:
    batch = DecodeBatch(llama.model)
    join(batch, llama, {1: [5, 6], 2: [7, 8]})
    steps(batch, 3)
    batch.clear()
    assert len(batch) == 0
    join(batch, llama, {3: [9, 10]})
    assert steps(batch, 9) == {3: llama.greedy([9, 10], 8)}


def test_a_seeded_row_repeats_among_others(llama: Loaded) -> None:
    seeded = SamplingParameters(temperature=1.5, top_p=0.98, seed=11)
    alone = DecodeBatch(llama.model)
    join(alone, llama, {0: [5, 6, 7]}, seeded)
    expected = steps(alone, NUM_STEPS)[0]
    assert expected != llama.greedy([5, 6, 7], len(expected))

    batch = DecodeBatch(llama.model)
    join(batch, llama, {1: PROMPTS[1]}, replace(seeded, top_p=1.0, seed=None))
    steps(batch, 4)
    join(batch, llama, {0: [5, 6, 7]}, seeded)
    told = steps(batch, 5)
    join(batch, llama, {2: PROMPTS[3]}, SamplingParameters(temperature=0.8, top_k=4, presence_penalty=1.0))
    steps(batch, 5, told)
    batch.remove({1})
    steps(batch, NUM_STEPS - 10, told)
    assert told[0] == expected


def test_the_next_step_is_under_way_when_a_step_returns(llama: Loaded) -> None:
    """What a step gives was computed before it, so that reading it waits for nothing new."""
    batch = DecodeBatch(llama.model)
    join(batch, llama, {1: [5, 6]})
    batch.step()
    assert batch._tokens is not None
    assert batch._tokens.tolist() == llama.greedy([5, 6], 1)
    assert batch._tokens.dtype == mx.uint32
