"""Attention on the CPU, several times as fast as MLX's own.

MLX's CPU back end computes `exp` without vector instructions, which is most of what attention costs there: 9 ns a
score where NumPy needs half of one. So NumPy computes all of it, in blocks that stay in a core's own memory, on every
core. The query heads that share a key head are folded into one product's rows.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# Below so many scores, the wait for what comes before attention costs more than NumPy saves.
_FEWEST_SCORES = 16_384
# Of a block: half a megabyte.
_BLOCK_SCORES: Final = 131_072
_MOST_THREADS: Final = 16
# What is masked. A row that may see nothing weighs all alike, as in MLX, and is no NaN.
_LOWEST: Final = np.finfo(np.float32).min

_mlx_attention = mx.fast.scaled_dot_product_attention

Floats = npt.NDArray[np.float32]


def use_fast_attention() -> None:
    """Let every model of this process use it; once, before a model runs.

    Models call `mx.fast.scaled_dot_product_attention`, each from its own code: there is no other place to stand.
    """
    if mx.fast.scaled_dot_product_attention is _mlx_attention:
        mx.fast.scaled_dot_product_attention = CpuAttention(_num_threads())


def _num_threads() -> int:
    """As many as there are cores, where NumPy's products can be kept to one each; else its products use all of them."""
    if sys.platform != "linux":
        return 1
    from threadpoolctl import ThreadpoolController

    # That NumPy came with: MLX has another, which keeps all of its threads.
    folder = Path(np.__file__).resolve().parents[1] / "numpy.libs"
    controller = ThreadpoolController()
    own = [path for one in controller.info() if Path(path := one["filepath"]).resolve().parent == folder]
    if not own:
        return 1
    # For good: the limits are kept until somebody asks for the old ones.
    controller.select(filepath=own).limit(limits=1)
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Shapes: `q` (batch, key heads, query heads of each, tokens, size), `k`, `v` (batch, key heads, positions, size),
    `out` as `q`, but of the size of `v`; `mask` is anything that goes with (batch, key heads, query heads of each,
    tokens, positions).
    """

    q: Floats
    k: Floats
    v: Floats
    out: Floats
    scale: float
    mask: npt.NDArray[Any] | None
    is_causal: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """What is computed at a time."""

    batch: slice
    heads: slice
    tokens: slice


class CpuAttention:
    """Takes the place of `mx.fast.scaled_dot_product_attention`; called by the worker's main thread."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._others = ThreadPoolExecutor(max(1, num_threads - 1), thread_name_prefix="attention")

    def __call__(
        self,
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
        num_scores = q.size // q.shape[3] * k.shape[2]
        is_usual = q.dtype == k.dtype == v.dtype == mx.float32 and q.shape[2] <= k.shape[2]
        if num_scores < _FEWEST_SCORES or not is_usual or not _is_known(mask) or sinks is not None or others:
            return _mlx_attention(q, k, v, scale=scale, mask=mask, sinks=sinks, **others)
        try:
            mx.eval([one for one in (q, k, v, mask) if isinstance(one, mx.array)])
        except ValueError:
            # A function that is being compiled, as vision towers are: there are no values yet.
            return _mlx_attention(q, k, v, scale=scale, mask=mask)
        inputs = _inputs(q, k, v, scale, mask)
        blocks = list(_blocks(inputs))
        size = -(-len(blocks) // self._num_threads)
        parts = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        waiting = [self._others.submit(_compute, inputs, part) for part in parts[1:]]
        _compute(inputs, parts[0])
        for part in waiting:
            part.result()
        return mx.array(inputs.out.reshape(*q.shape[:3], v.shape[3]))


def _is_known(mask: mx.array | str | None) -> bool:
    return not isinstance(mask, mx.array) or mask.dtype in (mx.bool_, mx.float32)


def _inputs(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None) -> _Inputs:
    """What has been computed, as NumPy sees it where it lies."""
    batch, num_heads, num_tokens, size = q.shape
    folded = (batch, k.shape[1], num_heads // k.shape[1], num_tokens)
    seen: npt.NDArray[Any] | None = None
    if isinstance(mask, mx.array):
        seen = np.array(mask, copy=False)
        seen = seen.reshape((1,) * (4 - seen.ndim) + seen.shape)
        seen = np.broadcast_to(seen, (batch, seen.shape[1], num_tokens, k.shape[2]))
        seen = seen[:, :, None] if seen.shape[1] == 1 else seen.reshape(*folded, -1)
    return _Inputs(
        np.array(q, copy=False).reshape(*folded, size),
        np.array(k, copy=False),
        np.array(v, copy=False),
        np.empty((*folded, v.shape[3]), np.float32),
        scale,
        seen,
        is_causal=isinstance(mask, str),
    )


def _blocks(inputs: _Inputs) -> Iterator[_Block]:
    """All there is, in blocks of about as many scores each; no head's are apart before its tokens are many."""
    batch, num_heads, num_shared, num_tokens, _ = inputs.q.shape
    scores_of_token = num_shared * inputs.k.shape[2]
    tokens = max(1, min(num_tokens, _BLOCK_SCORES // scores_of_token))
    heads = max(1, min(num_heads, _BLOCK_SCORES // (tokens * scores_of_token)))
    rows = max(1, min(batch, _BLOCK_SCORES // (heads * tokens * scores_of_token)))
    for row, head, token in product(range(0, batch, rows), range(0, num_heads, heads), range(0, num_tokens, tokens)):
        yield _Block(
            slice(row, min(batch, row + rows)),
            slice(head, min(num_heads, head + heads)),
            slice(token, min(num_tokens, token + tokens)),
        )


def _compute(inputs: _Inputs, blocks: list[_Block]) -> None:
    # Minus infinity for all that a token may see is not a number, in MLX, too.
    with np.errstate(invalid="ignore"):
        for block in blocks:
            _compute_block(inputs, block)


def _compute_block(inputs: _Inputs, block: _Block) -> None:
    num_positions, num_tokens = inputs.k.shape[2], inputs.q.shape[3]
    # Of what comes after the block's last token, no token in it sees anything.
    end = num_positions - num_tokens + block.tokens.stop if inputs.is_causal else num_positions
    k, v = inputs.k[block.batch, block.heads, :end], inputs.v[block.batch, block.heads, :end]
    q = np.multiply(inputs.q[block.batch, block.heads, :, block.tokens], np.float32(inputs.scale))
    rows, heads, shared, tokens, size = q.shape
    scores = np.matmul(q.reshape(rows, heads, shared * tokens, size), k.swapaxes(-1, -2))
    _mask(scores.reshape(rows, heads, shared, tokens, end), inputs, block)
    scores -= np.maximum(scores.max(axis=-1, keepdims=True), _LOWEST)
    np.exp(scores, out=scores)
    sought = np.matmul(scores, v)
    sought /= scores.sum(axis=-1, keepdims=True)
    inputs.out[block.batch, block.heads, :, block.tokens] = sought.reshape(rows, heads, shared, tokens, -1)


def _mask(scores: Floats, inputs: _Inputs, block: _Block) -> None:
    """Rule out what is not to be seen, in place."""
    if inputs.is_causal:
        num_tokens = scores.shape[3]
        is_later = np.triu(np.ones((num_tokens, num_tokens), np.bool_), 1)
        np.copyto(scores[..., -num_tokens:], _LOWEST, where=is_later)
    if inputs.mask is None:
        return
    heads = block.heads if inputs.mask.shape[1] > 1 else slice(None)
    mask = inputs.mask[block.batch, heads, :, block.tokens]
    if mask.dtype == np.bool_:
        np.copyto(scores, _LOWEST, where=~mask)
    else:
        scores += mask
