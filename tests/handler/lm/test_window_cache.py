"""A KV cache with a window: what each token sees, and that neighbours and chunks change nothing about it."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.kv.window_cache import WindowCache
from tests.fixtures.prefix_caches import fed, tokens_of
from tests.fixtures.tiny_lm import Loaded

WINDOW = 24


@pytest.fixture(scope="module")
def form(llama: Loaded) -> CacheForm:
    return CacheForm(llama.model, window=WINDOW)


def logits_of(form: CacheForm, tokens: list[int], chunk: int) -> np.ndarray[Any, Any]:
    """Logits after every token."""
    cache = form.new()
    parts = [tokens[start : start + chunk] for start in range(0, len(tokens), chunk)]
    return np.concatenate([np.array(form.model(mx.array([part]), cache=cache)[0]) for part in parts])


def theirs(form: CacheForm, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The same by mlx_lm's own window, one token at a time."""
    assert form.window is not None
    cache = [RotatingKVCache(form.window, keep=4) for _ in form.new()]
    return np.concatenate([np.array(form.model(mx.array([[token]]), cache=cache)[0]) for token in tokens])


def after(form: CacheForm, cache: BatchCache, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Logits after the last token of each of `rows`, which is in the cache then."""
    tokens = mx.array([row[-1] for row in rows])[:, None]
    return np.array(form.model(tokens, cache=cache.layers)[:, -1])


def assert_rows(form: CacheForm, cache: BatchCache, rows: list[list[int]]) -> None:
    """The same, and they are those of each row alone."""
    logits = after(form, cache, rows)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(logits[place], theirs(form, row)[-1], atol=2e-3)
    assert all(layer.size() <= WINDOW and layer.arrays[0].shape[2] <= WINDOW for layer in cache.layers)


@pytest.mark.parametrize("chunk", [1, 2, 7, WINDOW - 1, WINDOW, WINDOW + 1, 64, 100])
def test_a_token_sees_what_it_would_see_in_mlx_lms_window(form: CacheForm, chunk: int) -> None:
    tokens = tokens_of(1, 100)
    np.testing.assert_allclose(logits_of(form, tokens, chunk), theirs(form, tokens), atol=2e-3)


def test_up_to_the_window_nothing_is_forgotten_and_then_something_is(form: CacheForm) -> None:
    tokens = tokens_of(1, WINDOW + 8)
    whole = np.array(form.model(mx.array([tokens]), cache=make_prompt_cache(form.model))[0])
    ours = logits_of(form, tokens, 100)
    np.testing.assert_allclose(ours[:WINDOW], whole[:WINDOW], atol=2e-3)
    assert np.abs(ours[WINDOW:] - whole[WINDOW:]).max() > 0.1


def test_rows_come_go_and_repeat(form: CacheForm) -> None:
    """Shorter than the window, just full, and long since round."""
    short, full, long = tokens_of(1, 3), tokens_of(2, WINDOW), tokens_of(3, 90)
    cache = fed(form, short)
    cache.extend(fed(form, full))
    assert_rows(form, cache, [[*short, 7], [*full, 8]])
    cache.extend(fed(form, long))
    assert_rows(form, cache, [[*short, 7, 1], [*full, 8, 2], [*long, 3]])
    cache.repeat([2, 1, 1])
    cache.filter([0, 1, 3])
    rows = [[*short, 7, 1], [*short, 7, 1], [*long, 3]]
    for step in range(WINDOW):
        rows = [[*row, 10 * place + step] for place, row in enumerate(rows)]
        # The first goes round on the way.
        if step % 7:
            after(form, cache, rows)
        else:
            assert_rows(form, cache, rows)
    cache.filter([2])
    assert_rows(form, cache, [[*rows[2], 5]])
    cache.extend(fed(form, short))
    assert_rows(form, cache, [[*rows[2], 5, 6], [*short, 7]])


@pytest.mark.parametrize("lengths", [[40, 3, 1, 77], [5, 9], [2, 30], [WINDOW, 1]])
def test_prompts_that_are_prefilled_together(form: CacheForm, lengths: list[int]) -> None:
    prompts = [tokens_of(seed, length) for seed, length in enumerate(lengths)]
    cache = BatchCache.of([form.new() for _ in prompts])
    cache.feed(form.model, prompts)
    assert_rows(form, cache, [[*prompt, 7] for prompt in prompts])
    # And from where one was that is longer.
    cache = BatchCache.of([fed(form, prompts[0]).layers, *[form.new() for _ in prompts[1:]]])
    cache.feed(form.model, [tokens_of(8, 4), *prompts[1:]])
    rows = [[*prompts[0], *tokens_of(8, 4)], *prompts[1:]]
    for step in range(3):
        rows = [[*row, 7 + step] for row in rows]
        assert_rows(form, cache, rows)


def test_a_large_window_grows_with_its_rows(llama: Loaded) -> None:
    form = CacheForm(llama.model, window=300)
    rows = [tokens_of(1, 250), tokens_of(2, 3)]
    cache = fed(form, rows[0])
    cache.extend(fed(form, rows[1]))
    for step in range(60):
        rows = [[*row, step] for row in rows]
        after(form, cache, rows)
        assert cache.layers[0].nbytes <= 2 * 2 * 2 * 300 * 16 * 4
    rows = [[*row, 5] for row in rows]
    logits = after(form, cache, rows)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(logits[place], logits_of(form, row, 1000)[-1], atol=2e-3)


def test_a_row_that_is_taken_out_goes_on(form: CacheForm) -> None:
    prompts = [tokens_of(1, 3), tokens_of(2, 60)]
    cache = BatchCache.of([form.new() for _ in prompts])
    cache.feed(form.model, prompts)
    for place, prompt in enumerate(prompts):
        own = BatchCache.of([cache.row(place).checkpoint()])
        assert_rows(form, own, [[*prompt, 5]])
        assert_rows(form, own, [[*prompt, 5, 6]])
    assert_rows(form, cache, [[*prompt, 8] for prompt in prompts])


def test_what_is_kept_of_a_row_is_no_larger_than_what_it_holds(form: CacheForm) -> None:
    cache = fed(form, tokens_of(1, 5))
    after(form, cache, [[7]])
    assert cache.layers[0].arrays[0].shape[2] == WINDOW
    assert {array.shape[2] for layer in cache.row(0).checkpoint() for array in layer.arrays} == {6}


def test_rows_that_hold_nothing_yet(form: CacheForm) -> None:
    cache = BatchCache.of([form.new(), form.new()])
    cache.extend(BatchCache.of([form.new(), form.new()]))
    cache.filter([0, 1, 3])
    rows = [[number] for number in range(3)]
    assert_rows(form, cache, rows)
    cache.extend(BatchCache.of([form.new(), form.new()]))
    assert_rows(form, cache, [[*row, 5] for row in rows] + [[7], [8]])


def test_a_saved_state_goes_on(form: CacheForm) -> None:
    for length in (5, 60):
        layers = [WindowCache.from_state(layer.state) for layer in fed(form, tokens_of(1, length)).layers]
        assert_rows(form, BatchCache.of([layers]), [[*tokens_of(1, length), 9]])


def test_it_takes_a_window_of_memory_and_no_more(form: CacheForm) -> None:
    layers = fed(form, tokens_of(1, 300)).layers
    heads, dims, float32 = 2, 16, 4
    mx.eval([layer.state for layer in layers])
    assert [layer.nbytes for layer in layers] == [2 * WINDOW * heads * dims * float32] * len(layers)
    assert [layer.offset for layer in layers] == [300] * len(layers)


def test_a_window_of_the_models_own_inside_is_not_accepted(form: CacheForm) -> None:
    with pytest.raises(ValueError, match="window"):
        form.new()[0].make_mask(2, window_size=8)
