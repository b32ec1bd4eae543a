"""Attention on the CPU, several times as fast as MLX's own.

MLX's CPU back end computes `exp` without vector instructions, which is most of what attention costs there: 9 ns a
score where NumPy needs half of one. So NumPy computes all of it, in blocks that stay in a core's own memory, on every
core. The query heads that share a key head are folded into one product's rows.
"""

import os
import sys
from collections.abc import Iterator, Sequence
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
# Powers of e up to here, and all that matter beside the least of them, are numbers as they are.
_MOST_AS_IS: Final = 40.0

_mlx_attention = mx.fast.scaled_dot_product_attention

Floats = npt.NDArray[np.float32]
# Keys and values of some positions, each of shape (batch, key heads, positions, size).
Part = tuple[mx.array, mx.array]


def use_fast_attention() -> None:
    """Let every model of this process use it; once, before a model runs.

    Models call `mx.fast.scaled_dot_product_attention`, each from its own code: there is no other place to stand.
    """
    if mx.fast.scaled_dot_product_attention is _mlx_attention:
        mx.fast.scaled_dot_product_attention = CpuAttention(_num_threads())


def fast_attention() -> "CpuAttention | None":
    """What the models of this process use, if it is ours."""
    used = mx.fast.scaled_dot_product_attention
    return used if isinstance(used, CpuAttention) else None


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
    """Shapes: `q` (batch, key heads, query heads of each, tokens, size), of `parts` keys and values (batch, key heads,
    some of the positions, size), `out` as `q`, but of the size of the values; `mask` is anything that goes with (batch,
    key heads, query heads of each, tokens, positions).
    """

    q: Floats
    parts: list[tuple[Floats, Floats]]
    num_positions: int
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
        # What was joined last, and of what.
        self._newest: tuple[Part, Sequence[Part]] | None = None
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
        parts = self._parts_of(k, v)
        num_scores = q.size // q.shape[3] * k.shape[2]
        is_usual = q.dtype == k.dtype == v.dtype == mx.float32 and q.shape[2] <= k.shape[2]
        if num_scores < _FEWEST_SCORES or not is_usual or not _is_known(mask) or sinks is not None or others:
            return _mlx_attention(q, k, v, scale=scale, mask=mask, sinks=sinks, **others)
        try:
            mx.eval(q, parts, mask if isinstance(mask, mx.array) else [])
        except ValueError:
            # A function that is being compiled, as vision towers are: there are no values yet.
            return _mlx_attention(q, k, v, scale=scale, mask=mask)
        inputs = _inputs(q, parts, scale, mask)
        blocks = list(_blocks(inputs))
        size = -(-len(blocks) // self._num_threads)
        shares = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        waiting = [self._others.submit(_compute, inputs, share) for share in shares[1:]]
        _compute(inputs, shares[0])
        for share in waiting:
            share.result()
        return mx.array(inputs.out.reshape(*q.shape[:3], v.shape[3]))

    def joined(self, parts: Sequence[Part]) -> Part:
        """All parts as one. It is computed only if something else than the next call of this looks at it."""
        whole = mx.concatenate([k for k, _ in parts], axis=2), mx.concatenate([v for _, v in parts], axis=2)
        self._newest = whole, tuple(parts)
        return whole

    def forget(self) -> None:
        """Let go of what was joined last."""
        self._newest = None

    def _parts_of(self, k: mx.array, v: mx.array) -> Sequence[Part]:
        newest, self._newest = self._newest, None
        return newest[1] if newest is not None and newest[0][0] is k and newest[0][1] is v else [(k, v)]


def _is_known(mask: mx.array | str | None) -> bool:
    return not isinstance(mask, mx.array) or mask.dtype in (mx.bool_, mx.float32)


def _inputs(q: mx.array, parts: Sequence[Part], scale: float, mask: mx.array | str | None) -> _Inputs:
    """What has been computed, as NumPy sees it where it lies."""
    batch, num_heads, num_tokens, size = q.shape
    num_key_heads, num_positions = parts[0][0].shape[1], sum(k.shape[2] for k, _ in parts)
    folded = (batch, num_key_heads, num_heads // num_key_heads, num_tokens)
    seen: npt.NDArray[Any] | None = None
    if isinstance(mask, mx.array):
        seen = np.array(mask, copy=False)
        seen = seen.reshape((1,) * (4 - seen.ndim) + seen.shape)
        seen = np.broadcast_to(seen, (batch, seen.shape[1], num_tokens, num_positions))
        seen = seen[:, :, None] if seen.shape[1] == 1 else seen.reshape(*folded, -1)
    return _Inputs(
        np.array(q, copy=False).reshape(*folded, size),
        [(np.array(k, copy=False), np.array(v, copy=False)) for k, v in parts],
        num_positions,
        np.empty((*folded, parts[0][1].shape[3]), np.float32),
        scale,
        seen,
        is_causal=isinstance(mask, str),
    )


def _blocks(inputs: _Inputs) -> Iterator[_Block]:
    """All there is, in blocks of about as many scores each; no head's are apart before its tokens are many."""
    batch, num_heads, num_shared, num_tokens, _ = inputs.q.shape
    scores_of_token = num_shared * inputs.num_positions
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
    num_tokens = inputs.q.shape[3]
    # Of what comes after the block's last token, no token in it sees anything.
    end = inputs.num_positions - (num_tokens - block.tokens.stop if inputs.is_causal else 0)
    q = np.multiply(inputs.q[block.batch, block.heads, :, block.tokens], np.float32(inputs.scale))
    rows, heads, shared, tokens, size = q.shape
    q = q.reshape(rows, heads, shared * tokens, size)
    scores = np.empty((*q.shape[:3], end), np.float32)
    seen = list(_seen(inputs.parts, block, end))
    for places, k, _ in seen:
        np.matmul(q, k.swapaxes(-1, -2), out=scores[..., places])
    _mask(scores.reshape(rows, heads, shared, tokens, end), inputs, block)
    highest = np.maximum(scores.max(axis=-1, keepdims=True), _LOWEST)
    # As with most models: the result is the same, and a look at all scores is spared.
    if not np.abs(highest).max() <= _MOST_AS_IS:
        scores -= highest
    np.exp(scores, out=scores)
    sought = sum(np.matmul(scores[..., places], v) for places, _, v in seen)
    # BLAS adds faster than `sum`.
    sought /= np.matmul(scores, np.ones((end, 1), np.float32))
    inputs.out[block.batch, block.heads, :, block.tokens] = sought.reshape(rows, heads, shared, tokens, -1)


def _seen(parts: list[tuple[Floats, Floats]], block: _Block, end: int) -> Iterator[tuple[slice, Floats, Floats]]:
    """The positions before `end` that a block sees, part by part, with their keys and values."""
    start = 0
    for keys, values in parts:
        k, v = (one[block.batch, block.heads, : max(0, end - start)] for one in (keys, values))
        yield slice(start, start + k.shape[2]), k, v
        start += k.shape[2]


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
