"""Prompts that are fed in one pass with the rows that decode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn

from app.core.events import PrefillProgress
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache, Cache
from app.handler.lm.mixed_pass import MixedPass, open_mixed_pass
from tests.fixtures import odd_models
from tests.fixtures.engine_bench import NUM_TOKENS, Bench, bench, prompts
from tests.fixtures.tiny_lm import Loaded, load_folder

BAD = 1023


class Whole(nn.Module):
    """A model as mlx_lm has them, that raises at a token in some passes."""

    def __init__(self, loaded: Loaded, is_bad: Callable[[mx.array], bool]) -> None:
        super().__init__()
        whole: Any = loaded.model
        self.model = whole.model
        self.lm_head = whole.lm_head
        self.is_bad = is_bad

    @property
    def layers(self) -> Any:
        return self.model.layers

    def __call__(self, inputs: mx.array, cache: Cache | None = None) -> mx.array:
        if self.is_bad(inputs):
            raise RuntimeError("this model cannot bear that")
        return self.lm_head(self.model(inputs, cache))


class Blurred(nn.Module):
    """A model's body that mixes its rows up."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.layers: Any = body.layers

    def __call__(self, inputs: mx.array, cache: Cache | None = None) -> mx.array:
        given = self.body(inputs, cache)
        return given + given.mean(axis=0, keepdims=True)


def test_every_kind_of_keys_and_values_can(any_mixing_form: CacheForm) -> None:
    assert open_mixed_pass(any_mixing_form) is not None


@pytest.mark.parametrize("kind", ["lfm2", "llama4"])
def test_states_have_to_be_computed_in_order(kind: str, model_folder: Callable[[str], Path]) -> None:
    assert open_mixed_pass(CacheForm(load_folder(model_folder(kind)).model)) is None


def test_attention_of_its_own_kind_has_passes_of_its_own() -> None:
    assert open_mixed_pass(CacheForm(odd_models.gpt_oss())) is not None
    assert open_mixed_pass(CacheForm(odd_models.deepseek_v3())) is None


def test_a_model_that_says_something_else_is_found_out(llama: Loaded) -> None:
    model = Whole(llama, lambda _: False)
    assert open_mixed_pass(CacheForm(model)) is not None
    model.model = Blurred(model.model)
    assert open_mixed_pass(CacheForm(model)) is None


def test_rows_and_prompts_get_what_they_get_apart(any_mixing_form: CacheForm) -> None:
    """Several prompts, begun and new, beside rows of different lengths, longer than any window."""
    form = any_mixing_form
    begun = [11, 0, 50]
    fed = [[7, 8, 9] * 10, [5], [6, 4] * 20]
    row_lengths = [70, 3, 40]

    def caches(lengths: list[int]) -> list[Cache]:
        made = [form.new() for _ in lengths]
        for place, (cache, length) in enumerate(zip(made, lengths, strict=True)):
            if length:
                BatchCache(cache).feed(form.model, [[20 + place + at % 90 for at in range(length)]])
        return made

    tokens = mx.array([1, 2, 3], dtype=mx.uint32)
    rows, prompts_fed = BatchCache.of(caches(row_lengths)), caches(begun)
    logits = MixedPass(form.model).run(list(zip(prompts_fed, fed, strict=True)), rows.layers, tokens)
    lone_rows, lone_prompts = BatchCache.of(caches(row_lengths)), caches(begun)
    assert mx.allclose(logits, form.model(tokens[:, None], cache=lone_rows.layers), rtol=1e-3, atol=1e-3)
    for cache, lone, own in zip(prompts_fed, lone_prompts, fed, strict=True):
        BatchCache(lone).feed(form.model, [own])
        after = [form.model(mx.array([[3]]), cache=one) for one in (cache, lone)]
        assert mx.allclose(after[0], after[1], rtol=1e-3, atol=1e-3)
    after = [form.model(tokens[:, None], cache=one.layers) for one in (rows, lone_rows)]
    assert mx.allclose(after[0], after[1], rtol=1e-3, atol=1e-3)


def test_nothing_of_it_is_left_in_the_model(llama: Loaded) -> None:
    names, attention = dict(llama.model), mx.fast.scaled_dot_product_attention
    body: Any = llama.model.model
    assert open_mixed_pass(CacheForm(llama.model)) is not None
    assert dict(llama.model) == names
    assert llama.model.model is body
    assert mx.fast.scaled_dot_product_attention is attention


def answering(test: Bench) -> None:
    """Have a row answer, long enough for its steps to have been measured."""
    test.add(0, prompts(6)[1])
    test.turn_until(lambda: len(test.log.text(0)) > 8)


def test_every_turn_brings_both_on(llama: Loaded) -> None:
    test = bench(llama)
    answering(test)
    test.add(1, [7] * 300, 5)
    row = next(iter(test.engine._rows.values()))
    num_turns, num_before = 0, len(row.generated)
    while len(test.engine._rows) < 2:
        assert test.engine.turn()
        num_turns += 1
    assert len(row.generated) == num_before + num_turns
    assert [type(event) for event in test.log.events[1]].count(PrefillProgress) == num_turns >= 4
    test.run()
    assert test.log.completion(0).text == test.reference(prompts(6)[1])
    assert test.log.completion(1).text == test.reference([7] * 300, 5)


class TestFailures:
    def test_a_prompt_that_fails_beside_rows_fails_alone(self, llama: Loaded) -> None:
        test = bench(llama, model=Whole(llama, lambda inputs: bool((inputs == BAD).any().item())))
        answering(test)
        test.add(1, [9] * 70 + [BAD] + [9] * 70)
        test.add(2, prompts(6)[5])
        test.run()
        assert test.log.failure(1).error == "InternalError"
        for request_id, place in ((0, 1), (2, 5)):
            assert test.log.completion(request_id).text == test.reference(prompts(6)[place])

    def test_where_only_the_mixture_fails_nobody_does(self, llama: Loaded) -> None:
        is_wide = {"yet": False}
        test = bench(llama, model=Whole(llama, lambda inputs: is_wide["yet"] and inputs.shape[0] > 4))
        is_wide["yet"] = True
        answering(test)
        test.add(1, [9] * 140)
        test.run()
        assert test.log.completion(0).text == test.reference(prompts(6)[1])
        assert test.log.completion(1).text == test.reference([9] * 140, NUM_TOKENS)
