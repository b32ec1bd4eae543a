"""The memory for the KV caches of running rows: who waits for it, who gives it back, and that nobody's text changes."""

import gc
import random
from dataclasses import replace

import mlx.core as mx
import pytest

from app.core.conversation import Conversation, Message
from app.core.events import PrefillProgress, TextDelta
from app.core.requests import GenerationRequest, Sampling
from app.handler.lm.handler import LMHandler
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.kv_budget import KvBudget
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.sampling import SamplingParameters
from app.settings import ModelSpec
from tests.fixtures.driving import Log
from tests.fixtures.engine_bench import GREEDY, Bench, bench
from tests.fixtures.tiny_lm import SLIDING_WINDOW, Loaded

WILD = SamplingParameters(temperature=1.0, seed=11, frequency_penalty=0.7, repetition_penalty=1.3)


def tokens_of(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(3, 300), k=count)


def row_bytes(loaded: Loaded, num_tokens: int) -> int:
    budget = KvBudget.of(CacheForm(loaded.model), 0)
    return budget.row_bytes + num_tokens * budget.token_bytes


def ask(test: Bench, request_id: int, prompt: list[int], **fields: object) -> None:
    test.engine.add(request_id, replace(PreparedGeneration(prompt, 60, GREEDY), **fields))


def watched_run(test: Bench, max_bytes: int) -> int:
    """Run to the end; gives the most rows that decoded at once, none of which was over the budget."""
    most = 0
    while test.engine.turn():
        most = max(most, len(test.engine._batch))
        assert len(test.engine._batch) <= 1 or test.engine._budget.fits(
            len(test.engine._batch), test.engine._batch.num_tokens
        )
    assert test.engine._budget.max_bytes == max_bytes
    return most


def test_the_estimate_is_what_a_cache_takes(llama: Loaded) -> None:
    budget = KvBudget.of(CacheForm(llama.model), 10**6)
    layers, heads, dims, float32 = 4, 2, 16, 4
    assert budget.token_bytes == layers * 2 * heads * dims * float32
    assert budget.row_bytes == 0
    assert budget.longest_row == 10**6 // budget.token_bytes


def test_a_window_is_counted_whole_and_once(model_folder: object) -> None:
    from tests.fixtures.tiny_lm import load_folder

    budget = KvBudget.of(CacheForm(load_folder(model_folder("gemma3")).model), 10**6)  # type: ignore[operator]
    per_layer_token = 2 * 2 * 16 * 4
    assert budget.token_bytes == per_layer_token
    assert budget.row_bytes == 3 * SLIDING_WINDOW * per_layer_token


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_rows_that_outgrow_the_memory_take_turns_and_say_the_same(batched: Loaded, cache_bytes: int) -> None:
    prompts = [tokens_of(seed, 20 + 9 * seed) for seed in range(6)]
    max_bytes = 3 * row_bytes(batched, 140)
    test = bench(batched, cache_bytes=cache_bytes, kv_bytes=max_bytes)
    for request_id, prompt in enumerate(prompts):
        ask(test, request_id, prompt)
    most = watched_run(test, max_bytes)
    assert 2 <= most <= 4
    for request_id, prompt in enumerate(prompts):
        done = test.log.completion(request_id)
        assert done.text == test.reference(prompt, 60), request_id
        assert done.usage.completion_tokens == 60


def test_a_seeded_and_penalised_row_that_had_to_leave_goes_on_as_if_it_had_not(llama: Loaded) -> None:
    alone = bench(llama)
    ask(alone, 1, tokens_of(1, 40), sampling=WILD, top_logprobs=2)
    alone.run()
    max_bytes = 2 * row_bytes(llama, 150)
    test = bench(llama, cache_bytes=0, kv_bytes=max_bytes)
    ask(test, 0, tokens_of(0, 90), max_tokens=120)
    ask(test, 1, tokens_of(1, 40), sampling=WILD, top_logprobs=2)
    watched_run(test, max_bytes)
    both = alone.log.completion(1), test.log.completion(1)
    assert both[0].text == both[1].text
    assert [one.token for one in both[0].choice.logprobs or []] == [one.token for one in both[1].choice.logprobs or []]
    # It did leave: the other's row alone is too long for two.
    assert not test.engine._budget.fits(2, 200)
    assert test.log.completion(0).text == test.reference(tokens_of(0, 90), 120)


def test_a_row_alone_runs_whatever_it_takes(llama: Loaded) -> None:
    test = bench(llama, kv_bytes=row_bytes(llama, 10))
    for request_id in range(3):
        ask(test, request_id, tokens_of(request_id, 30), max_tokens=5)
    assert watched_run(test, row_bytes(llama, 10)) == 1
    for request_id in range(3):
        assert test.log.completion(request_id).text == test.reference(tokens_of(request_id, 30), 5)


def test_who_is_cancelled_while_it_waits_to_come_back_is_gone(llama: Loaded) -> None:
    test = bench(llama, kv_bytes=2 * row_bytes(llama, 110))
    ask(test, 0, tokens_of(0, 40), max_tokens=90)
    ask(test, 1, tokens_of(1, 40), max_tokens=90)
    test.turn_until(lambda: any(prompt.rows[0].generated for prompt in test.engine._line))
    test.engine.cancel(1)
    test.run()
    assert test.log.completion(0).text == test.reference(tokens_of(0, 40), 90)


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_done(llama: Loaded) -> None:
    test = bench(llama)
    ask(test, 0, tokens_of(0, 450), max_tokens=3)
    test.engine.turn()
    ask(test, 1, tokens_of(1, 8), max_tokens=3)
    ask(test, 2, tokens_of(2, 400), max_tokens=3)
    while test.engine.turn():
        pass
    order = [(request_id, type(event)) for request_id, event in test.log.order]
    last_chunk = max(at for at, told in enumerate(order) if told == (0, PrefillProgress))
    first_words = {request_id: order.index((request_id, TextDelta)) for request_id in range(3)}
    assert first_words[1] < last_chunk
    assert first_words[0] < first_words[2] + 20


def test_a_long_prompt_moves_on_however_many_short_ones_come(llama: Loaded) -> None:
    test = bench(llama)
    ask(test, 0, tokens_of(0, 450), max_tokens=3)
    for request_id in range(1, 400):
        ask(test, request_id, tokens_of(request_id, 8), max_tokens=1)
        test.engine.turn()
        if test.log.is_over(0):
            break
    assert test.log.is_over(0)
    test.run()


def burst(handler: LMHandler, first_id: int, num_rows: int) -> int:
    """Answer so many at once; gives the most memory that was in use."""
    for number in range(first_id, first_id + num_rows):
        prompt = Conversation([Message("user", f"{number} " + "word " * 60)])
        handler.submit(number, handler.prepare(GenerationRequest(prompt, Sampling(temperature=1.0), max_tokens=60)))
    most = 0
    while handler.turn():
        most = max(most, mx.get_active_memory())
    return most


def in_use() -> int:
    gc.collect()
    mx.synchronize()
    return mx.get_active_memory()


@pytest.mark.parametrize("settings", [{"prompt_cache_bytes": 0}, {}, {"max_kv_size": 64, "prompt_cache_bytes": 0}])
def test_after_a_burst_only_what_is_kept_is_still_in_use(llama: Loaded, settings: dict[str, int]) -> None:
    handler = LMHandler(
        llama.folder, ModelSpec.model_validate({"model_path": str(llama.folder)} | settings), Log().emit
    )
    handler.load()
    burst(handler, 0, 1)
    handler.clear_caches()
    before = in_use()
    for number, num_rows in enumerate([16, 1, 16], start=1):
        most = burst(handler, 100 * number, num_rows)
        kept = handler.inspect().num_bytes
        assert most > before + 50_000
        assert (kept > 0) == ("prompt_cache_bytes" not in settings)
        check_in_use(before + kept, kept)
        # Ready for the next burst at once, and in quiet times for everybody else.
        assert mx.get_cache_memory() > 0
        pause_s = handler.rest(0.0)
        assert pause_s is not None
        handler.rest(pause_s)
        assert mx.get_cache_memory() == 0
        check_in_use(before + kept, kept)


def check_in_use(expected: int, kept: int) -> None:
    """Each array that is kept takes whole pages."""
    assert abs(in_use() - expected) <= 0.2 * kept + 100_000
