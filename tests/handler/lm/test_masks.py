"""Sets of tokens as bits, and what they leave of logits."""

import mlx.core as mx
import numpy as np
import pytest

from app.handler.lm.guides.masks import cut_mask, mask_logits, mask_of, mask_of_one, num_words, tokens_in


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1061, 4096])
def test_a_mask_has_the_tokens_it_was_made_of(size: int) -> None:
    draw = np.random.default_rng(size)
    tokens = sorted({0, size - 1, *draw.integers(0, size, size=9).tolist()})
    words = mask_of([*tokens, size, size + 40], size)
    assert words.shape == (num_words(size),)
    assert tokens_in(words).tolist() == tokens
    for token in tokens:
        assert tokens_in(mask_of_one(token, size)).tolist() == [token]


@pytest.mark.parametrize(("size", "left"), [(40, [0, 31, 32, 39]), (33, [0, 31, 32]), (32, [0, 31]), (1, [0])])
def test_a_mask_can_be_cut(size: int, left: list[int]) -> None:
    cut = cut_mask(mask_of([0, 31, 32, 39, 40, 63], 64), size)
    assert cut.shape == (num_words(size),)
    assert tokens_in(cut).tolist() == left


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 1061, 4096])
def test_logits_keep_the_allowed_tokens_of_their_rows(dtype: mx.Dtype, size: int) -> None:
    draw = np.random.default_rng(size)
    for batch, rows in ((1, [0]), (5, [0, 4]), (5, [2]), (5, [0, 1, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, [3, 4])):
        logits = mx.array(draw.normal(size=(batch, size)).astype(np.float32)).astype(dtype)
        masks = draw.integers(0, 2**32, size=(len(rows), -(-size // 32)), dtype=np.uint32)
        masked = mask_logits(logits, rows, masks)
        assert masked.dtype == dtype
        expected = np.array(logits.astype(mx.float32))
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, :size]
        expected[rows] = np.where(bits, expected[rows], -np.inf)
        assert np.array_equal(np.array(masked.astype(mx.float32)), expected)
