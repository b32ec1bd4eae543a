"""Which tokens a row may still draw, and the draw: exact in integers, so that no row depends on its neighbours.

Shapes are (rows, candidates); a candidate's weight is its probability as a whole number, 0 once it is ruled out.
"""

import mlx.core as mx

# A row's weights add up to about this much.
TOTAL_BITS = 31
# Where a row has at most so many candidates, sorting them is faster than searching for a threshold.
_FEW = 4096
_BLOCK = 64


def shortlist(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The `count` highest logits of each row, highest first, of equals the first, and where they are.

    The likeliest tokens are in as many blocks at most; only the blocks with the highest maxima are sorted.
    """
    num_rows, size = logits.shape
    if padding := -size % _BLOCK:
        logits = mx.concatenate([logits, mx.full((num_rows, padding), -mx.inf, dtype=logits.dtype)], axis=-1)
    blocks = logits.reshape(num_rows, -1, _BLOCK)
    chosen = mx.argsort(-blocks.max(axis=-1), axis=-1)[:, :count]
    # In their order, so that of equal logits the first goes first.
    chosen = mx.sort(chosen, axis=-1)
    gathered = mx.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(num_rows, -1)
    places = (chosen[:, :, None] * _BLOCK + mx.arange(_BLOCK, dtype=mx.uint32)).reshape(num_rows, -1)
    order = mx.argsort(-gathered, axis=-1)[:, :count]
    return mx.take_along_axis(gathered, order, axis=-1), mx.take_along_axis(places, order, axis=-1)


def relative_probabilities(logits: mx.array, scale: mx.array) -> mx.array:
    """Exp of each logit times `scale`, relative to the row's likeliest, which has 1. `scale` is in powers of two."""
    wide = logits.astype(mx.float32)
    # exp is three times as slow as this on Linux.
    return mx.power(2.0, (wide - wide.max(axis=-1, keepdims=True)) * scale)


def weights_of(probabilities: mx.array, highest: mx.array | None = None) -> mx.array:
    """The probabilities as weights, the likeliest `highest`, shape (rows, 1), or else whatever makes them add up."""
    if highest is None:
        highest = 2.0**TOTAL_BITS / probabilities.sum(axis=-1, keepdims=True)
    return (probabilities * highest + 0.5).astype(mx.uint32)


def share_of(weights: mx.array, share: mx.array) -> mx.array:
    """That share, given in units of 2**-32, of each row's total; rounded up."""
    return ((_total(weights) * share + (2**32 - 1)) >> 32).astype(mx.uint32)


def order_of(values: mx.array) -> tuple[mx.array, int]:
    """Unsigned integers in the same order as `values`, and how many bits of them are used.

    `values` are of any 16-bit type, or float32 from 0 to 1.
    """
    if values.dtype == mx.float32:
        return values.view(mx.uint32), 30
    # Adding zero makes -0.0 the 0.0 that it equals.
    bits = (values + 0).view(mx.uint16)
    return mx.where(bits >> 15 == 1, ~bits, bits | 0x8000), 16


def keep_highest(keys: mx.array, num_bits: int, weights: mx.array, least: mx.array) -> mx.array:
    """Whether each candidate is among the fewest with the highest keys whose weights add up to `least`.

    Of equal keys the first is taken first. `least` is at least 1; `weights` may be of shape (1, 1).
    """
    if keys.shape[-1] <= _FEW:
        order = mx.argsort(mx.array(2**num_bits - 1, dtype=keys.dtype) - keys, axis=-1)
        weights = mx.broadcast_to(weights, keys.shape)
        before = _before(mx.take_along_axis(weights, order, axis=-1))
        return mx.put_along_axis(mx.zeros(keys.shape, dtype=mx.bool_), order, before < least, axis=-1)
    threshold = mx.zeros((keys.shape[0], 1), dtype=keys.dtype)
    for bit in reversed(range(num_bits)):
        higher = threshold | (1 << bit)
        threshold = mx.where(_total(weights * (keys >= higher)) >= least, higher, threshold)
    above = keys > threshold
    ties = weights * (keys == threshold)
    return above | ((keys == threshold) & (_total(weights * above) + _before(ties) < least))


def typical_order(weights: mx.array) -> tuple[mx.array, int]:
    """Keys for `keep_highest`, highest where the surprise is closest to what is to be expected.

    Source: https://arxiv.org/abs/2202.00666
    """
    share = weights / _total(weights)
    surprise = -mx.log2(share)
    expected = mx.where(weights > 0, share * surprise, 0.0).sum(axis=-1, keepdims=True)
    # The sign bit of what is not negative is free.
    distance = mx.abs(surprise - expected).view(mx.uint32)
    return mx.array(2**31 - 1, dtype=mx.uint32) - distance, 31


def without_top_choices(weights: mx.array, threshold: mx.array, spared: mx.array) -> mx.array:
    """Rule out all candidates above the threshold but the least likely of them, and those that are spared.

    Source: mlx_lm's apply_xtc; https://github.com/oobabooga/text-generation-webui/pull/6335
    """
    share = weights / _total(weights)
    lowest = mx.where(share > threshold, share, mx.inf).min(axis=-1, keepdims=True)
    return weights * ((share <= lowest) | spared)


def draw(weights: mx.array, numbers: mx.array) -> mx.array:
    """A candidate of each row by its weight; `numbers` are random, of 32 bits, shape (rows, 1)."""
    cumulated = mx.cumsum(weights, axis=-1)
    at = ((cumulated[:, -1:] * numbers.astype(mx.uint64)) >> 32).astype(mx.uint32)
    return mx.argmax(cumulated > at, axis=-1)


def _total(weights: mx.array) -> mx.array:
    return weights.sum(axis=-1, keepdims=True)


def _before(weights: mx.array) -> mx.array:
    return mx.cumsum(weights, axis=-1, inclusive=False)
