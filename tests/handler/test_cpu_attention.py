"""Our attention for CPUs beside MLX's own."""

from typing import Any

import mlx.core as mx
import pytest

from app.handler import cpu_attention
from app.handler.cpu_attention import _attention, _mlx_attention, use_fast_attention

BATCH, HEADS, KEY_HEADS, SIZE = 2, 6, 2, 16
POSITIONS = 96


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # However few scores there are, unless a test says otherwise.
    monkeypatch.setattr(cpu_attention, "_FEWEST_SCORES", 0)


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
    ],
    ids=["none", "causal", "padded", "nothing to see", "biased", "infinite"],
)
def test_it_gives_what_mlx_gives(num_tokens: int, mask: Any) -> None:
    q, k, v = inputs(num_tokens)
    given = mask(num_tokens)
    expected = _mlx_attention(q, k, v, scale=0.3, mask=given)
    ours = _attention(q, k, v, scale=0.3, mask=given)
    assert ours.shape == expected.shape
    # Minus infinity for all that a token may see is not a number, here and there.
    assert mx.allclose(ours, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_what_goes_in_is_left_as_it_was() -> None:
    arrays = inputs(7)
    before = [mx.array(array) for array in arrays]
    mx.eval(before)
    mx.eval(_attention(*arrays, scale=0.3, mask="causal"))
    assert all(mx.array_equal(array, copy) for array, copy in zip(arrays, before, strict=True))


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [(mx.float16, {}), (mx.float32, {"sinks": mx.zeros(HEADS)}), (mx.float32, {"stream": mx.cpu})],
    ids=["half precision", "sinks", "another stream"],
)
def test_what_it_does_not_know_is_left_to_mlx(monkeypatch: pytest.MonkeyPatch, dtype: mx.Dtype, asked: Any) -> None:
    monkeypatch.delattr(cpu_attention, "_exponentials")
    q, k, v = inputs(7, dtype)
    assert mx.array_equal(_attention(q, k, v, scale=0.3, **asked), _mlx_attention(q, k, v, scale=0.3, **asked))


def test_few_scores_are_left_to_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_FEWEST_SCORES", BATCH * HEADS * 7 * POSITIONS + 1)
    monkeypatch.delattr(cpu_attention, "_exponentials")
    q, k, v = inputs(7)
    assert mx.array_equal(_attention(q, k, v, scale=0.3), _mlx_attention(q, k, v, scale=0.3))


def test_models_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", _mlx_attention)
    use_fast_attention()
    use_fast_attention()
    assert mx.fast.scaled_dot_product_attention is _attention


def test_a_compiled_function_has_no_values_yet() -> None:
    """Vision towers are compiled."""
    compiled = mx.compile(lambda q, k, v: _attention(q, k, v, scale=0.3))
    arrays = inputs(7)
    assert mx.allclose(compiled(*arrays), _mlx_attention(*arrays, scale=0.3), rtol=1e-5, atol=1e-6)
