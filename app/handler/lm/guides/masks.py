"""Sets of tokens as bit masks, and logits that are masked with them."""

from collections.abc import Iterable
from typing import Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

# A bit per token, lowest bit first.
Words = NDArray[np.uint32]

_WORD_BITS: Final = 32


def num_words(num_tokens: int) -> int:
    """How long a mask of so many tokens is."""
    return -(-num_tokens // _WORD_BITS)


def mask_of(tokens: Iterable[int], num_tokens: int) -> Words:
    """The mask of some tokens, shape (words,); those from `num_tokens` on are left out."""
    bits = np.zeros(num_words(num_tokens) * _WORD_BITS, dtype=np.uint8)
    bits[[token for token in tokens if token < num_tokens]] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


def tokens_in(words: Words) -> NDArray[np.int64]:
    """The tokens of a mask, ascending."""
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))


def mask_of_one(token: int, num_tokens: int) -> Words:
    """The mask of one token, shape (words,)."""
    words = np.zeros(num_words(num_tokens), dtype=np.uint32)
    words[token // _WORD_BITS] = 1 << (token % _WORD_BITS)
    return words


def cut_mask(words: Words, num_tokens: int) -> Words:
    """The mask without its tokens from `num_tokens` on; `words` may be changed."""
    words = words[: num_words(num_tokens)]
    words[-1] &= np.uint32(0xFFFFFFFF >> (-num_tokens % _WORD_BITS))
    return words


def mask_logits(logits: mx.array, rows: list[int], masks: Words) -> mx.array:
    """Leave only the allowed tokens in some rows of `logits`, shape (batch, vocabulary).

    `rows` is ascending, `masks` has one row for each of them.
    """
    num_rows, size = logits.shape
    if 2 * len(rows) > num_rows:
        words = np.full((num_rows, masks.shape[1]), 0xFFFFFFFF, dtype=np.uint32)
        words[rows] = masks
        return _masked(logits, words, size)
    masked = _masked(logits[mx.array(rows)], masks, size)
    parts: list[mx.array] = []
    done = 0
    for index, row in enumerate(rows):
        parts += [logits[done:row], masked[index : index + 1]]
        done = row + 1
    return mx.concatenate([*parts, logits[done:]])


def _masked(logits: mx.array, words: Words, size: int) -> mx.array:
    bits = mx.left_shift(mx.array(1, dtype=mx.uint32), mx.arange(_WORD_BITS, dtype=mx.uint32))
    is_allowed = (mx.array(words)[:, :, None] & bits) != 0
    return mx.where(is_allowed.reshape(len(words), -1)[:, :size], logits, mx.array(-mx.inf, dtype=logits.dtype))
