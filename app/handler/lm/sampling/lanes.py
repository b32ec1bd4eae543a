"""The rows of a batch that ask for the same kinds of filter go through them together, each with its own numbers."""

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from app.handler.lm.sampling import filters
from app.handler.lm.sampling.parameters import LOWEST_TEMPERATURE, SamplingParameters

# Up to this top-k, only the row's likeliest tokens are looked at.
_LONGEST_SHORTLIST = 128


@dataclass(frozen=True, slots=True)
class DrawnNumbers:
    """A row's random numbers for one token: 32 bits, and whether XTC rules out the top choices this time."""

    bits: int
    does_xtc: bool = False


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done to the logits of a row, whatever the numbers."""

    is_adjusted: bool
    is_greedy: bool
    is_listed: bool = False
    has_top_k: bool = False
    has_top_p: bool = False
    has_min_p: bool = False
    is_typical: bool = False
    has_xtc: bool = False

    @classmethod
    def of(cls, asked: SamplingParameters) -> "Stages":
        """The stages of a row."""
        if asked.is_greedy:
            return cls(asked.adjusts_logits, is_greedy=True)
        is_listed = 0 < asked.top_k <= _LONGEST_SHORTLIST
        return cls(
            asked.adjusts_logits,
            is_greedy=False,
            is_listed=is_listed,
            has_top_k=asked.top_k > 0 and not is_listed,
            has_top_p=asked.top_p < 1.0,
            has_min_p=asked.min_p > 0.0,
            is_typical=asked.typical_p < 1.0,
            has_xtc=asked.xtc_probability > 0.0,
        )


class Lane:
    """Rows of the same stages, their parameters laid out as columns.

    Filters in the order of Hugging Face's samplers: temperature, top-k, top-p, min-p, typical; then XTC. Each takes
    what the ones before it have left for the whole.
    """

    def __init__(self, asked: list[SamplingParameters], stages: Stages) -> None:
        self._asked = asked
        self._stages = stages
        self._scale = _column([math.log2(math.e) / max(one.temperature, LOWEST_TEMPERATURE) for one in asked])
        self._min_p = _column([one.min_p for one in asked])
        self._top_k = mx.array([one.top_k for one in asked], dtype=mx.uint32)[:, None]
        self._top_p = _shares([one.top_p for one in asked])
        self._typical_p = _shares([one.typical_p for one in asked])
        self._longest = max(one.top_k for one in asked) if stages.is_listed else 0
        # Of the likeliest token: a power of two that depends on the row's own top-k only, so that 32 bits hold the sum.
        self._highest = _column([2.0 ** (filters.TOTAL_BITS - (one.top_k - 1).bit_length()) for one in asked])
        self._is_spared: mx.array | None = None

    def __call__(self, logits: mx.array, numbers: list[DrawnNumbers]) -> mx.array:
        """Draw a token per row, shape (rows,), from `logits`, shape (rows, vocabulary)."""
        weights, places = self.weights(logits, [one.does_xtc for one in numbers])
        chosen = filters.draw(weights, mx.array([one.bits for one in numbers], dtype=mx.uint32)[:, None])
        return chosen if places is None else mx.take_along_axis(places, chosen[:, None], axis=-1)[:, 0]

    def weights(self, logits: mx.array, does_xtc: list[bool]) -> tuple[mx.array, mx.array | None]:
        """The weights of the candidates, and which tokens they are; None stands for the whole vocabulary."""
        size = logits.shape[-1]
        places: mx.array | None = None
        if self._stages.is_listed:
            logits, places = filters.shortlist(logits, self._longest)
        probabilities = filters.relative_probabilities(logits, self._scale)
        weights = self._within_order(logits, probabilities)
        if self._stages.has_min_p:
            # Of the likeliest token's probability, which is 1 here.
            weights = weights * (probabilities >= self._min_p)
        if self._stages.is_typical:
            keys, num_bits = filters.typical_order(weights)
            least = filters.share_of(weights, self._typical_p)
            weights = weights * filters.keep_highest(keys, num_bits, weights, least)
        if any(does_xtc):
            # No share is above 1: nothing is ruled out.
            threshold = _column(
                [one.xtc_threshold if does else 1.0 for one, does in zip(self._asked, does_xtc, strict=True)]
            )
            weights = filters.without_top_choices(weights, threshold, self._spared(size, places))
        return weights, places

    def _within_order(self, logits: mx.array, probabilities: mx.array) -> mx.array:
        """The weights within top-k and top-p."""
        stages = self._stages
        if stages.is_listed:
            weights = filters.weights_of(probabilities, self._highest)
            weights = weights * (mx.arange(weights.shape[-1]) < self._top_k)
        else:
            weights = filters.weights_of(probabilities)
        # A model's own 16 bits are found in half the steps; logits that were adjusted have more.
        keys, num_bits = filters.order_of(probabilities if logits.dtype == mx.float32 else logits)
        if stages.has_top_k:
            ones = mx.array([[1]], dtype=mx.uint32)
            weights = weights * filters.keep_highest(keys, num_bits, ones, self._top_k)
        if stages.has_top_p:
            least = filters.share_of(weights, self._top_p)
            weights = weights * filters.keep_highest(keys, num_bits, weights, least)
        return weights

    def _spared(self, size: int, places: mx.array | None) -> mx.array:
        """Whether each candidate is one that XTC never rules out."""
        if self._is_spared is None:
            is_spared = np.zeros((len(self._asked), size), dtype=np.bool_)
            for row, one in enumerate(self._asked):
                is_spared[row, [token for token in one.xtc_spared if token < size]] = True
            self._is_spared = mx.array(is_spared)  # pyright: ignore[reportArgumentType]
        return self._is_spared if places is None else mx.take_along_axis(self._is_spared, places, axis=-1)


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]


def _shares(values: list[float]) -> mx.array:
    """In units of 2**-32, rounded up, and not zero: the likeliest token is always kept."""
    return mx.array([max(1, math.ceil(value * 2**32)) for value in values], dtype=mx.uint64)[:, None]
