"""Attention on the CPU, several times as fast as MLX's own.

MLX's CPU back end computes `exp` without vector instructions, which is most of what attention costs there: 9 ns a
score where NumPy needs half of one. The two products stay MLX's (BLAS), with the query heads that share a key head
folded into one product's rows.
"""

from typing import Any

import mlx.core as mx
import numpy as np

# Below so many scores, the wait for the products costs more than NumPy saves.
_FEWEST_SCORES = 16_384
# What is masked. A row that may see nothing weighs all alike, as in MLX, and is no NaN.
_LOWEST = float(np.finfo(np.float32).min)

_mlx_attention = mx.fast.scaled_dot_product_attention


def use_fast_attention() -> None:
    """Let every model of this process use it; once, before a model runs.

    Models call `mx.fast.scaled_dot_product_attention`, each from its own code: there is no other place to stand.
    """
    mx.fast.scaled_dot_product_attention = _attention


def _attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: mx.array | str | None = None,
    sinks: mx.array | None = None,
    **others: Any,
) -> mx.array:
    """As MLX's: q is (batch, heads, tokens, size), k and v (batch, key heads, positions, size)."""
    batch, num_heads, num_tokens, _ = q.shape
    num_positions = k.shape[2]
    num_scores = batch * num_heads * num_tokens * num_positions
    is_float32 = q.dtype == k.dtype == v.dtype == mx.float32
    if num_scores < _FEWEST_SCORES or not is_float32 or sinks is not None or others:
        return _mlx_attention(q, k, v, scale=scale, mask=mask, sinks=sinks, **others)
    folded = (batch, k.shape[1], -1)
    scores = (q * scale).reshape(*folded, q.shape[3]) @ k.swapaxes(-1, -2)
    scores = scores.reshape(batch, num_heads, num_tokens, num_positions)
    if isinstance(mask, mx.array):
        scores = mx.where(mask, scores, _LOWEST) if mask.dtype == mx.bool_ else scores + mask
    try:
        mx.eval(scores)
    except ValueError:
        # A function that is being compiled, as vision towers are: there are no values yet.
        return _mlx_attention(q, k, v, scale=scale, mask=mask)
    sums = _exponentials(scores, is_causal=isinstance(mask, str))
    sought = (scores.reshape(*folded, num_positions) @ v).reshape(batch, num_heads, num_tokens, v.shape[3])
    return sought / sums


def _exponentials(scores: mx.array, *, is_causal: bool) -> mx.array:
    """Put the softmax's numerators over the last axis in the place of the scores, which nobody else has seen.

    Gives their sums, shape (..., 1). The scores have been computed.
    """
    values = np.array(scores, copy=False)
    if is_causal:
        num_tokens, num_positions = values.shape[-2:]
        is_later = np.triu(np.ones((num_tokens, num_tokens), bool), 1)
        np.copyto(values[..., num_positions - num_tokens :], _LOWEST, where=is_later)
    values -= np.maximum(values.max(axis=-1, keepdims=True), _LOWEST)
    np.exp(values, out=values)
    return mx.array(values.sum(axis=-1, keepdims=True))
