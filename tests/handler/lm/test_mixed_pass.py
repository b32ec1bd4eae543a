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
from app.handler.lm.mixed_pass import Fed, MixedPass, open_mixed_pass
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.parameters import SamplingParameters
from app.handler.lm.tail import Tail, open_tail
from tests.fixtures import odd_models, tiny_lm
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


def test_layers_may_look_at_the_keys_of_another(tmp_path: Path) -> None:
    form = CacheForm(load_folder(tiny_lm.gemma4(tmp_path / "model")).model)
    layers: Any = form.model.layers
    assert len(form.new()) < len(layers)
    assert mixed(form) is not None


def test_every_kind_of_keys_and_values_can(any_mixing_form: CacheForm) -> None:
    assert mixed(any_mixing_form) is not None


def mixed(form: CacheForm) -> MixedPass | None:
    return open_mixed_pass(form, open_tail(form))


@pytest.mark.parametrize("kind", ["lfm2", "llama4"])
def test_states_have_to_be_computed_in_order(kind: str, model_folder: Callable[[str], Path]) -> None:
    assert mixed(CacheForm(load_folder(model_folder(kind)).model)) is None


def test_attention_of_its_own_kind_has_passes_of_its_own() -> None:
    assert mixed(CacheForm(odd_models.gpt_oss())) is not None
    assert mixed(CacheForm(odd_models.deepseek_v3())) is None


def test_a_model_that_says_something_else_is_found_out(llama: Loaded) -> None:
    model = Whole(llama, lambda _: False)
    assert mixed(CacheForm(model)) is not None
    model.model = Blurred(model.model)
    assert mixed(CacheForm(model)) is None


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
    wants = [False, True, True]
    given = [Fed(*one) for one in zip(prompts_fed, fed, wants, strict=True)]
    logits = MixedPass(form.model, Tail(form.model)).run(given, rows.layers, tokens)
    lone_rows, lone_prompts = BatchCache.of(caches(row_lengths)), caches(begun)
    assert mx.allclose(logits[:3], form.model(tokens[:, None], cache=lone_rows.layers), rtol=1e-3, atol=1e-3)
    lasts = [BatchCache(lone).feed(form.model, [own])[0, -1] for lone, own in zip(lone_prompts, fed, strict=True)]
    assert mx.allclose(logits[3:, 0], mx.stack(lasts[1:]), rtol=1e-3, atol=1e-3)
    for cache, lone in zip(prompts_fed, lone_prompts, strict=True):
        after = [form.model(mx.array([[3]]), cache=one) for one in (cache, lone)]
        assert mx.allclose(after[0], after[1], rtol=1e-3, atol=1e-3)
    after = [form.model(tokens[:, None], cache=one.layers) for one in (rows, lone_rows)]
    assert mx.allclose(after[0], after[1], rtol=1e-3, atol=1e-3)


def test_nothing_of_it_is_left_in_the_model(llama: Loaded) -> None:
    names, attention = dict(llama.model), mx.fast.scaled_dot_product_attention
    body: Any = llama.model.model
    assert mixed(CacheForm(llama.model)) is not None
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
    # The step before was told with the first of them.
    assert len(row.generated) == num_before + num_turns + 1
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

    @pytest.mark.parametrize("num_passes", [0, 1, 3])
    def test_where_only_the_mixture_fails_nobody_does(self, llama: Loaded, num_passes: int) -> None:
        """However many went well before, and whatever the row is drawn with."""
        asked = SamplingParameters(temperature=1.0, seed=7, presence_penalty=0.7, frequency_penalty=0.4)
        sampled = PreparedGeneration(prompts(6)[1], NUM_TOKENS, asked)
        alone = bench(llama)
        alone.add_asking(0, sampled)
        alone.run()

        left = [1000]

        def has_had_enough(inputs: mx.array) -> bool:
            is_mixed = inputs.shape[0] > 4
            left[0] -= is_mixed
            return is_mixed and left[0] < 0

        test = bench(llama, model=Whole(llama, has_had_enough))
        test.add_asking(0, sampled)
        test.turn_until(lambda: len(test.log.text(0)) > 8)
        left[0] = num_passes
        test.add(1, [9] * 140)
        test.run()
        assert test.engine._num_failed_mixtures == 1
        assert test.log.completion(0).text == alone.log.completion(0).text
        assert test.log.completion(1).text == test.reference([9] * 140, NUM_TOKENS)

    def test_one_bad_prompt_does_not_end_mixing_and_many_failures_do(self, llama: Loaded) -> None:
        test = bench(llama, model=Whole(llama, lambda inputs: bool((inputs == BAD).any().item())))
        for request_id in range(1, 4):
            test.add(0, [5] * 9, 200)
            test.turn_until(lambda: len(test.log.text(0)) > 8)
            test.add(request_id, [9] * 70 + [BAD] + [9] * 70)
            test.turn_until(lambda request_id=request_id: test.log.is_over(request_id))
            assert test.log.failure(request_id).error == "InternalError"
            # What goes well in between.
            test.add(10 + request_id, [7 + request_id] * 70, 5)
            test.run()
            assert test.engine._mixed is not None
            assert test.log.completion(0).text == test.reference([5] * 9, 200)
            del test.log.events[0]

    def test_what_is_kept_of_a_row_that_leaves_is_what_was_fed(self, llama: Loaded) -> None:
        """Its newest token has been told in the pass before, and not been fed."""
        test = bench(llama)
        answering(test)
        (row,) = test.engine._rows.values()
        test.add(1, [9] * 140)
        test.turn_until(lambda: any(isinstance(event, PrefillProgress) for event in test.log.events[1]))
        assert test.engine._batch.has_told_newest(row.id)
        test.engine.cancel(0)
        longer = [*prompts(6)[1], *row.generated, 20, 21, 22]
        test.add(2, longer)
        test.run()
        assert test.log.completion(2).text == test.reference(longer)
        assert test.log.completion(1).text == test.reference([9] * 140)


def test_prompts_that_are_kept_whole_share_a_pass(llama: Loaded) -> None:
    """Of each only the last token is fed: a burst of the same question, asked once before."""
    test = bench(llama)
    prompt = list(range(3, 20))
    test.add(0, prompt, 5)
    test.run()
    for request_id in range(1, 9):
        test.add(request_id, prompt, 5)
    test.engine.turn()
    assert len(test.engine._rows) == 8
    test.run()
    for request_id in range(1, 9):
        assert test.log.completion(request_id).text == test.reference(prompt, 5)
        assert test.log.completion(request_id).usage.cached_tokens == len(prompt) - 1


def test_the_first_token_comes_with_the_prompts_last_pass(llama: Loaded) -> None:
    test = bench(llama)
    test.add(0, [7] * 20, 5)
    test.engine.turn()
    (row,) = test.engine._rows.values()
    assert len(row.generated) == 1
    test.run()
    assert test.log.completion(0).text == test.reference([7] * 20, 5)


def test_where_it_takes_a_step_it_comes_with_that_step(wide_by_name: dict[str, Loaded]) -> None:
    """A model that is resumed at checkpoints."""
    test = bench(wide_by_name["lfm2"])
    test.add(0, [7] * 20, 5)
    test.turn_until(lambda: len(test.engine._rows) > 0)
    (row,) = test.engine._rows.values()
    assert not row.generated
    test.engine.turn()
    assert len(row.generated) == 1
    test.run()
    assert test.log.completion(0).text == test.reference([7] * 20, 5)


def test_a_model_without_a_body_of_its_own_takes_a_step_for_it(llama: Loaded) -> None:
    inner = Whole(llama, lambda _: False)

    class Bodiless(nn.Module):
        layers: Any = inner.layers

        def __call__(self, inputs: mx.array, cache: Cache | None = None) -> mx.array:
            return inner(inputs, cache)

    assert open_tail(CacheForm(Bodiless())) is None
    test = bench(llama, model=Bodiless())
    answering(test)
    test.add(1, [9] * 140, 5)
    test.run()
    assert test.log.completion(0).text == test.reference(prompts(6)[1])
    assert test.log.completion(1).text == test.reference([9] * 140, 5)
