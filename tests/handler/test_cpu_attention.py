"""Our attention for CPUs beside MLX's own."""

import os
from typing import Any

import mlx.core as mx
import pytest
from threadpoolctl import threadpool_info

from app.handler import cpu_attention
from app.handler.cpu_attention import CpuAttention, _mlx_attention, use_fast_attention

BATCH, HEADS, KEY_HEADS, SIZE = 2, 6, 2, 16
POSITIONS = 96


@pytest.fixture(autouse=True)
def however_few_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_FEWEST_SCORES", 0)


@pytest.fixture
def attention() -> CpuAttention:
    return CpuAttention(num_threads=3)


def inputs(num_tokens: int, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array, mx.array]:
    """Queries as models make them, and keys and values as a cache with room gives them."""
    mx.random.seed(num_tokens)
    q = mx.random.normal((BATCH, num_tokens, HEADS, SIZE)).swapaxes(1, 2)
    k, v = 3 * mx.random.normal((2, BATCH, KEY_HEADS, POSITIONS + 32, SIZE))
    return q.astype(dtype), k[..., :POSITIONS, :].astype(dtype), v[..., :POSITIONS, :].astype(dtype)


def padded(num_tokens: int) -> mx.array:
    """One row that begins later than the other, shape (rows, 1, tokens, positions)."""
    places = mx.arange(POSITIONS)
    causal = places <= mx.arange(POSITIONS - num_tokens, POSITIONS)[:, None]
    return (causal & (places >= mx.array([0, 40])[:, None, None]))[:, None]


def nothing_to_see(num_tokens: int) -> mx.array:
    mask = mx.ones((num_tokens, POSITIONS), mx.bool_)
    mask[0] = False
    return mask


@pytest.mark.parametrize("num_tokens", [1, 7, POSITIONS])
@pytest.mark.parametrize(
    "mask",
    [
        lambda _: None,
        lambda _: "causal",
        padded,
        nothing_to_see,
        lambda num_tokens: mx.random.normal((num_tokens, POSITIONS)),
        lambda num_tokens: mx.where(padded(num_tokens), 0.0, -mx.inf),
        lambda num_tokens: mx.random.normal((BATCH, HEADS, num_tokens, POSITIONS)) > 0,
    ],
    ids=["none", "causal", "padded", "nothing to see", "biased", "infinite", "by head"],
)
@pytest.mark.parametrize("block_scores", [1, 3 * 5 * POSITIONS, 10**6], ids=["tiny", "some tokens", "all"])
def test_it_gives_what_mlx_gives(
    attention: CpuAttention, monkeypatch: pytest.MonkeyPatch, block_scores: int, num_tokens: int, mask: Any
) -> None:
    monkeypatch.setattr(cpu_attention, "_BLOCK_SCORES", block_scores)
    q, k, v = inputs(num_tokens)
    given = mask(num_tokens)
    expected = _mlx_attention(q, k, v, scale=0.3, mask=given)
    ours = attention(q, k, v, scale=0.3, mask=given)
    assert ours.shape == expected.shape
    assert mx.allclose(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", [1e-3, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, -300.0, 300.0])
def test_scores_may_be_of_any_size(attention: CpuAttention, size: float, shift: float) -> None:
    q, k, v = inputs(7)
    bias = mx.full((7, POSITIONS), shift)
    expected = _mlx_attention(size * q, k, v, scale=0.3, mask=bias)
    assert mx.allclose(attention(size * q, k, v, scale=0.3, mask=bias), expected, rtol=1e-3, atol=1e-3)


def test_what_goes_in_is_left_as_it_was(attention: CpuAttention) -> None:
    arrays = inputs(7)
    before = [mx.array(array) for array in arrays]
    mx.eval(before)
    mx.eval(attention(*arrays, scale=0.3, mask="causal"))
    assert all(mx.array_equal(array, copy) for array, copy in zip(arrays, before, strict=True))


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [
        (mx.float16, {}),
        (mx.float32, {"sinks": mx.zeros(HEADS)}),
        (mx.float32, {"stream": mx.cpu}),
        (mx.float32, {"mask": mx.zeros((7, POSITIONS), mx.float16)}),
    ],
    ids=["half precision", "sinks", "another stream", "a mask of half precision"],
)
def test_what_it_does_not_know_is_left_to_mlx(
    attention: CpuAttention, monkeypatch: pytest.MonkeyPatch, dtype: mx.Dtype, asked: Any
) -> None:
    monkeypatch.delattr(cpu_attention, "_compute")
    q, k, v = inputs(7, dtype)
    assert mx.array_equal(attention(q, k, v, scale=0.3, **asked), _mlx_attention(q, k, v, scale=0.3, **asked))


def test_few_scores_are_left_to_mlx(attention: CpuAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_FEWEST_SCORES", BATCH * HEADS * 7 * POSITIONS + 1)
    monkeypatch.delattr(cpu_attention, "_compute")
    q, k, v = inputs(7)
    assert mx.array_equal(attention(q, k, v, scale=0.3), _mlx_attention(q, k, v, scale=0.3))


def test_what_fails_in_a_thread_is_not_lost(attention: CpuAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_BLOCK_SCORES", 1)
    broken = mx.zeros((BATCH, KEY_HEADS, POSITIONS - 1, SIZE))
    q, k, _ = inputs(7)
    with pytest.raises(ValueError, match="mismatch"):
        attention(q, k, broken, scale=0.3)


def test_models_use_it_on_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", _mlx_attention)
    use_fast_attention()
    ours = mx.fast.scaled_dot_product_attention
    assert isinstance(ours, CpuAttention)
    use_fast_attention()
    assert mx.fast.scaled_dot_product_attention is ours
    # NumPy's own products then use one core each.
    own = [one["num_threads"] for one in threadpool_info() if "numpy.libs" in one["filepath"]]
    assert own == [1]
    assert ours._num_threads == min(16, len(os.sched_getaffinity(0)))


def test_a_compiled_function_has_no_values_yet(attention: CpuAttention) -> None:
    """Vision towers are compiled."""
    compiled = mx.compile(lambda q, k, v: attention(q, k, v, scale=0.3))
    arrays = inputs(7)
    assert mx.allclose(compiled(*arrays), _mlx_attention(*arrays, scale=0.3), rtol=1e-5, atol=1e-6)
