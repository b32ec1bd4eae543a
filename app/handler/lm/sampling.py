"""How the next token of each row is drawn: one call for the whole batch, whatever each row asks for."""

import math
import random
from dataclasses import dataclass

import mlx.core as mx

_BELOW_ONE = 1.0 - 2.0**-20
# Below this, dividing by the temperature leaves the range of a float32 (vLLM's limit, too).
_LOWEST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """What one row asks for, every default filled in. Temperature 0 is greedy; top_k 0 is off."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < _LOWEST_TEMPERATURE or self.top_k == 1

    @property
    def adjusts_logits(self) -> bool:
        """Whether the logits are changed before a token is drawn."""
        return bool(
            self.repetition_penalty != 1.0 or self.presence_penalty or self.frequency_penalty or self.logit_bias
        )


class RowSampler:
    """One row's random numbers and penalties. Owned by the worker's main thread.

    Each token takes one uniform number from the row's own generator, so a seeded row repeats exactly whoever its
    neighbours are.
    """

    __slots__ = ("_bias", "_counts", "_is_started", "_prompt", "_random", "_seen", "parameters")

    def __init__(self, parameters: SamplingParameters, prompt: list[int], choice: int = 0) -> None:
        self.parameters = parameters
        # The choices of one seeded request differ, and the first is what a request for one gets.
        seed = parameters.seed
        self._random = random.Random(seed if seed is None or not choice else f"{seed}/{choice}")
        self._prompt = prompt
        self._is_started = False
        # Shape (vocabulary,); None where nothing asks for it, as an array that no step evaluates would keep every
        # step's alive.
        self._counts: mx.array | None = None
        self._seen: mx.array | None = None
        self._bias: mx.array | None = None

    def uniform(self) -> float:
        """The next random number, in [0, 1) and far enough from 1 to stay there as a float32."""
        return self._random.random() * _BELOW_ONE

    def adjust(self, token: mx.array | None, logits: mx.array) -> mx.array:
        """Penalise and bias `logits`, shape (1, vocabulary), in float32.

        `token`, shape (1,), was generated since the last call.
        """
        if not self._is_started:
            self._start(logits.shape[-1])
        if token is not None and self._counts is not None:
            self._counts = self._counts.at[token].add(1.0)
        if token is not None and self._seen is not None:
            self._seen = self._seen.at[token].maximum(1.0)
        return self._penalised(logits.astype(mx.float32))

    def _start(self, size: int) -> None:
        self._is_started = True
        asked = self.parameters
        if asked.presence_penalty or asked.frequency_penalty:
            self._counts = mx.zeros((size,))
        if asked.repetition_penalty != 1.0:
            self._seen = _scattered([(token, 1.0) for token in set(self._prompt)], size)
        if asked.logit_bias:
            self._bias = _scattered(list(asked.logit_bias), size)

    def _penalised(self, logits: mx.array) -> mx.array:
        asked = self.parameters
        if self._seen is not None:
            penalty = asked.repetition_penalty
            logits = mx.where(self._seen > 0, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self._counts is not None:
            counts = self._counts
            logits = logits - asked.frequency_penalty * counts - asked.presence_penalty * (counts > 0)
        return logits if self._bias is None else logits + self._bias


class BatchSampler:
    """The rows' parameters as arrays, laid out once for as long as the batch has the same rows."""

    def __init__(self, rows: list[RowSampler]) -> None:
        self._rows = rows
        asked = [row.parameters for row in rows]
        self._all_greedy = all(one.is_greedy for one in asked)
        self._adjusting = [index for index, one in enumerate(asked) if one.adjusts_logits]
        self._is_greedy = mx.array([one.is_greedy for one in asked])
        self._temperature = _column([1.0 if one.is_greedy else one.temperature for one in asked])
        self._min_p = _column([one.min_p for one in asked])
        # Top-p off keeps the last token too, wherever the sum is rounded to.
        self._top_p = _column([one.top_p if one.top_p < 1.0 else math.inf for one in asked])
        # Top-k off is a k that no vocabulary reaches.
        self._top_k = mx.array([one.top_k or 2**30 for one in asked])[:, None]
        self._needs_order = any((one.top_k or one.top_p < 1.0) and not one.is_greedy for one in asked)
        self._has_min_p = any(one.min_p for one in asked)

    def __call__(self, logits: mx.array, tokens: mx.array, is_first: list[bool]) -> mx.array:
        """Draw a token per row, shape (rows,), from `logits`, shape (rows, vocabulary).

        `tokens`, shape (rows,), is what was fed to get them; it is generated text but where `is_first`.
        """
        if self._adjusting:
            logits = self._adjust(logits, tokens, is_first)
        greedy = mx.argmax(logits, axis=-1)
        if self._all_greedy:
            return greedy
        uniform = _column([row.uniform() for row in self._rows])
        drawn = self._draw(logits.astype(mx.float32) / self._temperature, uniform)
        return mx.where(self._is_greedy, greedy, drawn)

    def _adjust(self, logits: mx.array, tokens: mx.array, is_first: list[bool]) -> mx.array:
        rows = [logits[index : index + 1] for index in range(len(self._rows))]
        for index in self._adjusting:
            generated = None if is_first[index] else tokens[index : index + 1]
            rows[index] = self._rows[index].adjust(generated, rows[index])
        return mx.concatenate(rows, axis=0)

    def _draw(self, logits: mx.array, uniform: mx.array) -> mx.array:
        """Inverse transform sampling: the first token where the cumulated probability passes the random number.

        Filters in the order of Hugging Face's and vLLM's samplers: temperature, top-k, top-p, min-p. They only clear
        probabilities, so that a row draws the same token whatever its neighbours ask for.
        """
        return _invert(self._filtered(mx.softmax(logits, axis=-1)), uniform)

    def _filtered(self, probabilities: mx.array) -> mx.array:
        if self._needs_order:
            probabilities = self._within_top(probabilities)
        if self._has_min_p:
            floor = self._min_p * probabilities.max(axis=-1, keepdims=True)
            probabilities = mx.where(probabilities >= floor, probabilities, 0.0)
        return probabilities

    def _within_top(self, probabilities: mx.array) -> mx.array:
        order = mx.argsort(-probabilities, axis=-1)
        ordered = mx.take_along_axis(probabilities, order, axis=-1)
        rank = mx.arange(ordered.shape[-1])[None, :]
        ordered = mx.where(rank < self._top_k, ordered, 0.0)
        before = mx.cumsum(ordered, axis=-1, inclusive=False)
        share = self._top_p * ordered.sum(axis=-1, keepdims=True)
        ordered = mx.where((before < share) | (rank == 0), ordered, 0.0)
        return mx.put_along_axis(mx.zeros_like(ordered), order, ordered, axis=-1)


def _invert(probabilities: mx.array, uniform: mx.array) -> mx.array:
    """The first index of each row whose cumulated probability exceeds `uniform` of the row's total."""
    cumulated = mx.cumsum(probabilities, axis=-1)
    return mx.argmax(cumulated > uniform * cumulated[:, -1:], axis=-1)


def _scattered(values: list[tuple[int, float]], size: int) -> mx.array:
    """Zeros of shape (size,) but for `values`, (place, value) each; places outside are left out."""
    inside = [(place, value) for place, value in values if place < size]
    if not inside:
        return mx.zeros((size,))
    places, numbers = zip(*inside, strict=True)
    return mx.zeros((size,)).at[mx.array(places)].add(mx.array(numbers, dtype=mx.float32))


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]
