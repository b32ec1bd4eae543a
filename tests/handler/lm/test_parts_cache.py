"""A row's cache in parts beside one that was never apart."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from app.handler import cpu_attention
from app.handler.cpu_attention import CpuAttention
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache, RowCache, restored
from app.handler.lm.kv.parts_cache import PartsCache
from app.handler.lm.mixed_pass import Fed, open_mixed_pass
from app.handler.lm.tail import open_tail

CUTS = (0, 5, 40, 64)
TOKENS = [20 + at % 90 for at in range(CUTS[-1])]
NEW = [30 + at % 70 for at in range(24)]


@pytest.fixture(autouse=True)
def attention(monkeypatch: pytest.MonkeyPatch) -> CpuAttention:
    """Our own, as every model on a CPU has it, however small."""
    monkeypatch.setattr(cpu_attention, "_FEWEST_SCORES", 0)
    ours = CpuAttention(num_threads=2)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", ours)
    return ours


def whole(form: CacheForm) -> BatchCache:
    cache = BatchCache(form.new())
    cache.feed(form.model, [TOKENS])
    return cache


def in_parts(form: CacheForm) -> BatchCache:
    row = whole(form).row(0)
    segments = [row.spans(start, stop) for start, stop in pairwise(CUTS)]
    return BatchCache(restored(form.new(), segments, None, len(TOKENS), room=64))


@pytest.fixture(params=["llama", "few bits"])
def form(form_by_name: Callable[[str], CacheForm], request: pytest.FixtureRequest) -> CacheForm:
    return form_by_name(request.param)


def test_only_what_our_attention_reads_is_left_in_parts(
    form_by_name: Callable[[str], CacheForm], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds(name: str) -> set[type[Any]]:
        return {type(layer) for layer in in_parts(form_by_name(name)).layers}

    assert kinds("llama") == {PartsCache}
    assert PartsCache not in kinds("few bits")
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", cpu_attention._mlx_attention)
    assert kinds("llama") == {KVCache}


@pytest.mark.parametrize(
    "passes",
    [[24], [1], [2], [20, 24], [20, 4, 1], [24, 1, 1, 5], [3, 1] * 40],
    ids=lambda passes: "-".join(map(str, passes[:4])),
)
def test_a_row_goes_on_as_if_it_had_never_been_apart(form: CacheForm, passes: list[int]) -> None:
    ours, plain = in_parts(form), whole(form)
    for length in passes:
        logits = [cache.feed(form.model, [NEW[:length]]) for cache in (ours, plain)]
        assert mx.allclose(*logits, rtol=1e-3, atol=1e-3)
    assert same_tokens(ours.row(0), plain.row(0), len(TOKENS) + sum(passes))


@pytest.mark.parametrize("num_fed", [0, 20])
@pytest.mark.parametrize("num_taken", [1, 7, 30])
def test_tokens_can_be_taken_back_out(form: CacheForm, num_fed: int, num_taken: int) -> None:
    ours, plain = in_parts(form), whole(form)
    for cache in (ours, plain):
        if num_fed:
            cache.feed(form.model, [NEW[:num_fed]])
        cache.trim(num_taken)
    logits = [cache.feed(form.model, [NEW]) for cache in (ours, plain)]
    assert mx.allclose(*logits, rtol=1e-3, atol=1e-3)


def test_rows_in_parts_are_batched_with_others(form: CacheForm) -> None:
    def together(make: Callable[[CacheForm], BatchCache]) -> mx.array:
        newcomer, begun = make(form), make(form)
        begun.feed(form.model, [NEW])
        rows = BatchCache.of([make(form).layers, begun.layers])
        rows.extend(newcomer)
        rows.repeat([1, 2, 1])
        return rows.feed(form.model, [[3], [4], [5], [6]])

    assert mx.allclose(together(in_parts), together(whole), rtol=1e-3, atol=1e-3)


def test_prompts_in_parts_share_a_pass_with_rows(form_by_name: Callable[[str], CacheForm]) -> None:
    form = form_by_name("llama")
    mixed = open_mixed_pass(form, open_tail(form))
    assert mixed is not None

    def run(make: Callable[[CacheForm], BatchCache]) -> mx.array:
        prompts = [Fed(make(form).layers, NEW[:length], wants_logits=True) for length in (24, 7, 18)]
        return mixed.run(prompts, make(form).layers, mx.array([8], dtype=mx.uint32))

    assert mx.allclose(run(in_parts), run(whole), rtol=1e-3, atol=1e-3)


def test_what_was_kept_stays_as_it_was(form_by_name: Callable[[str], CacheForm]) -> None:
    form = form_by_name("llama")
    row = whole(form).row(0)
    segments = [row.spans(start, stop) for start, stop in pairwise(CUTS)]
    before = [mx.array(array) for array in arrays_in(segments)]
    mx.eval(before)
    for passes in ([24, 1], [1, 3], [20, 20]):
        cache = BatchCache(restored(form.new(), segments, None, len(TOKENS), room=8))
        for length in passes:
            cache.feed(form.model, [NEW[:length]])
    assert all(mx.array_equal(array, copy) for array, copy in zip(arrays_in(segments), before, strict=True))


def test_prefill_copies_nothing_that_was_kept(attention: CpuAttention) -> None:
    heads, size, num_kept = 2, 32, 4096
    kept = [(mx.random.normal((1, heads, num_kept, size)), mx.random.normal((1, heads, num_kept, size)))]
    new = mx.random.normal((3, 1, heads, 20, size))
    mx.eval(kept, new)
    cache = PartsCache(attention, kept, room=64)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    keys, values = cache.update_and_fetch(new[0], new[1])
    mx.eval(attention(new[2], keys, values, scale=0.1, mask="causal"), cache.state)
    del keys, values
    assert mx.get_peak_memory() - before < kept[0][0].nbytes
    # The first decoded token brings the copy.
    cache.update_and_fetch(new[0][:, :, :1], new[1][:, :, :1])
    mx.eval(cache.state)
    assert mx.get_active_memory() - before > 2 * kept[0][0].nbytes


def test_what_anybody_else_does_with_the_whole_is_right(attention: CpuAttention) -> None:
    """Attention is only told of the newest: what it is not asked about, or comes late, is computed."""
    kept = [(mx.random.normal((1, 2, 40, 16)), mx.random.normal((1, 2, 40, 16)))]
    new = mx.random.normal((3, 1, 2, 20, 16))
    first, second = PartsCache(attention, kept, room=0), PartsCache(attention, kept[:1] * 2, room=0)
    early = first.update_and_fetch(new[0], new[1])
    late = second.update_and_fetch(new[0], new[1])
    for keys, values in (early, late):
        given = mx.fast.scaled_dot_product_attention(new[2], keys * 1, values, scale=0.1)
        again = mx.fast.scaled_dot_product_attention(new[2], keys, values, scale=0.1)
        expected = cpu_attention._mlx_attention(new[2], keys, values, scale=0.1)
        assert mx.allclose(given, expected, atol=1e-5)
        assert mx.allclose(again, expected, atol=1e-5)
    assert early[0].shape[2] == 60
    assert late[0].shape[2] == 100


def arrays_in(segments: list[list[tuple[mx.array, ...]]]) -> Iterator[mx.array]:
    return (array for spans in segments for span in spans for array in span)


def same_tokens(one: RowCache, other: RowCache, num_tokens: int) -> bool:
    pairs = zip(arrays_in([one.spans(0, num_tokens)]), arrays_in([other.spans(0, num_tokens)]), strict=True)
    return all(mx.allclose(first, second, rtol=1e-3, atol=1e-3) for first, second in pairs)
