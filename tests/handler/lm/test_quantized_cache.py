"""A KV cache in few bits: what is rounded, and that neighbours, chunks and restarts change nothing about it."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.kv.quantized_cache import Quantization
from tests.fixtures.prefix_caches import tokens_of
from tests.fixtures.tiny_lm import Loaded

Logits = np.ndarray[Any, Any]
EIGHT = Quantization(8, 32)
# One token, and fewer and more than are attended to in few bits.
PROMPTS = [tokens_of(1, 40), tokens_of(2, 3), tokens_of(3, 1), tokens_of(4, 77)]


def fed(form: CacheForm, tokens: list[int], chunk: int = 1000) -> BatchCache:
    cache = BatchCache.of([form.new()])
    for start in range(0, len(tokens), chunk):
        cache.feed(form.model, [tokens[start : start + chunk]])
    return cache


def after(form: CacheForm, cache: BatchCache, tokens: list[int]) -> Logits:
    """Logits after one more token for each row."""
    return np.array(form.model(mx.array(tokens)[:, None], cache=cache.layers)[:, -1])


def alone(form: CacheForm, tokens: list[int]) -> Logits:
    return after(form, fed(form, tokens[:-1]) if tokens[:-1] else BatchCache.of([form.new()]), tokens[-1:])[0]


def assert_rows(form: CacheForm, cache: BatchCache, rows: list[list[int]]) -> None:
    """The next token of each of `rows` has the logits that it has alone; it is in the cache then."""
    logits = after(form, cache, [row[-1] for row in rows])
    for place, row in enumerate(rows):
        np.testing.assert_allclose(logits[place], alone(form, row), atol=1e-2)


@pytest.mark.parametrize("is_attended", [True, False])
def test_how_a_prompt_is_cut_changes_nothing(wide: Loaded, is_attended: bool) -> None:
    form = CacheForm(wide.model, Quantization(4, 32, is_attended))
    prompt = tokens_of(9, 90)
    expected = after(form, fed(form, prompt), [5])
    for chunk in (1, 20, 64):
        np.testing.assert_allclose(after(form, fed(form, prompt, chunk), [5]), expected, atol=1e-2)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_number_is_off_by_half_a_step_at_most(wide_llama: Loaded, bits: int) -> None:
    tokens = tokens_of(9, 50)
    exact, rounded = (
        # The first layer: those after it are fed what attention made of rounded numbers.
        form.new()[0]
        for form in (
            CacheForm(wide_llama.model),
            CacheForm(wide_llama.model, Quantization(bits, 32, is_attended=False)),
        )
    )
    draw = np.random.default_rng(len(tokens))
    given = [mx.array(draw.normal(size=(1, 2, len(tokens), 32)).astype(np.float32)) for _ in range(2)]
    for one, other in zip(exact.update_and_fetch(*given), rounded.update_and_fetch(*given), strict=True):
        step = (one.max(axis=-1) - one.min(axis=-1)) / (2**bits - 1)
        # The scale is moved a little, so that zero stays zero.
        assert float((mx.abs(one - other).max(axis=-1) / step).max()) < 1.01
        assert float(mx.abs(one - other).max()) > 0


@pytest.mark.parametrize(("bits", "most_error", "fewest_same"), [(4, 0.4, 0.4), (6, 0.1, 0.8), (8, 0.025, 0.93)])
def test_the_more_bits_the_closer(wide_llama: Loaded, bits: int, most_error: float, fewest_same: float) -> None:
    """Error of the logits in parts of their spread, and how often the likeliest token is the same."""
    for seed in range(5):
        tokens = mx.array([tokens_of(seed, 100)])
        exact, rounded = (
            np.array(wide_llama.model(tokens, cache=form.new())[0])
            for form in (CacheForm(wide_llama.model), CacheForm(wide_llama.model, Quantization(bits, 32)))
        )
        error = float(np.sqrt(((rounded - exact) ** 2).mean()) / exact.std())
        assert most_error / 10 < error < most_error
        assert (rounded.argmax(-1) == exact.argmax(-1)).mean() > fewest_same


def test_few_tokens_are_attended_to_in_few_bits_and_many_restored(wide_llama: Loaded) -> None:
    """By whether `bits` is there, mlx_lm's attention knows which it is given."""
    for is_attended in (True, False):
        form = CacheForm(wide_llama.model, Quantization(8, 32, is_attended))
        cache = fed(form, tokens_of(1, 100))
        assert not any(hasattr(layer, "bits") for layer in cache.layers)
        after(form, cache, [5])
        assert all(hasattr(layer, "bits") is is_attended for layer in cache.layers)


def test_rows_come_go_repeat_and_are_taken_back(wide: Loaded) -> None:
    form = CacheForm(wide.model, EIGHT)
    first, second, third, fourth = PROMPTS
    cache = fed(form, first)
    cache.extend(fed(form, second))
    assert_rows(form, cache, [[*first, 7], [*second, 8]])
    cache.extend(fed(form, fourth))
    assert_rows(form, cache, [[*first, 7, 1], [*second, 8, 2], [*fourth, 3]])
    cache.filter([1, 2])
    assert_rows(form, cache, [[*second, 8, 2, 4], [*fourth, 3, 5]])
    cache.repeat([2, 1])
    assert_rows(form, cache, [[*second, 8, 2, 4, 6], [*second, 8, 2, 4, 7], [*fourth, 3, 5, 8]])
    cache.filter([1])
    assert_rows(form, cache, [[*second, 8, 2, 4, 7, 9]])
    alone_and_twice = fed(form, third)
    alone_and_twice.repeat([2])
    assert_rows(form, alone_and_twice, [[*third, 8], [*third, 9]])
    cache.extend(alone_and_twice)
    assert_rows(form, cache, [[*second, 8, 2, 4, 7, 9, 1], [*third, 8, 2], [*third, 9, 3]])


def test_tokens_are_taken_back_out(wide_llama: Loaded) -> None:
    form = CacheForm(wide_llama.model, EIGHT)
    assert form.can_trim
    cache = fed(form, [*PROMPTS[0], 7, 8, 9])
    cache.trim(3)
    assert_rows(form, cache, [[*PROMPTS[0], 5]])
    cache.extend(fed(form, PROMPTS[1]))
    assert_rows(form, cache, [[*PROMPTS[0], 5, 6], [*PROMPTS[1], 6]])
    cache.trim(1)
    assert_rows(form, cache, [[*PROMPTS[0], 5, 7], [*PROMPTS[1], 7]])


@pytest.mark.parametrize("lengths", [[40, 3, 1, 77], [5, 9]])
def test_prompts_that_are_prefilled_together(wide: Loaded, lengths: list[int]) -> None:
    form = CacheForm(wide.model, EIGHT)
    prompts = [tokens_of(seed, length) for seed, length in enumerate(lengths)]
    cache = BatchCache.of([form.new() for _ in prompts])
    cache.feed(form.model, prompts)
    assert_rows(form, cache, [[*prompt, 7] for prompt in prompts])
    # And from where a longer one was, as after a hit.
    cache = BatchCache.of([fed(form, prompts[0]).layers, *[form.new() for _ in prompts[1:]]])
    cache.feed(form.model, [tokens_of(8, 4), *prompts[1:]])
    assert_rows(form, cache, [[*prompts[0], *tokens_of(8, 4), 7], *[[*prompt, 7] for prompt in prompts[1:]]])
