"""What is added to or taken off one row's logits before a token is drawn."""

from collections.abc import Callable

import mlx.core as mx

from app.handler.lm.sampling.dry import DryPenalty
from app.handler.lm.sampling.parameters import SamplingParameters


class RowPenalties:
    """One row's penalties and biases. Owned by the worker's main thread."""

    __slots__ = ("_asked", "_bias", "_bytes_of", "_counts", "_dry", "_is_started", "_prompt", "_seen")

    def __init__(self, asked: SamplingParameters, prompt: list[int], bytes_of: Callable[[int], bytes]) -> None:
        self._asked = asked
        self._prompt = prompt
        self._bytes_of = bytes_of
        self._is_started = False
        # Shape (vocabulary,); None where nothing asks for it, as an array that no step evaluates would keep every
        # step's alive.
        self._counts: mx.array | None = None
        self._seen: mx.array | None = None
        self._bias: mx.array | None = None
        self._dry: DryPenalty | None = None

    def note(self, token: int) -> None:
        """A token has been read, before `adjust` is called with it; only DRY needs to know."""
        if self._dry is not None:
            self._dry.push(token)

    def adjust(self, token: mx.array | None, logits: mx.array) -> mx.array:
        """Penalise and bias `logits`, shape (1, vocabulary), in float32.

        `token`, shape (1,), was generated since the last call.
        """
        self._start(logits.shape[-1])
        if token is not None:
            self._count(token)
        return self._penalised(logits.astype(mx.float32))

    def count(self, tokens: list[int], size: int) -> None:
        """Tokens have come that `adjust` is not called with; `size` is that of the vocabulary."""
        self._start(size)
        for token in tokens:
            self.note(token)
        self._count(mx.array(tokens))

    def _count(self, tokens: mx.array) -> None:
        if self._counts is not None:
            self._counts = self._counts.at[tokens].add(1.0)
        if self._seen is not None:
            self._seen = self._seen.at[tokens].maximum(1.0)

    def _start(self, size: int) -> None:
        if self._is_started:
            return
        self._is_started = True
        asked = self._asked
        if asked.presence_penalty or asked.frequency_penalty:
            self._counts = mx.zeros((size,))
        if asked.repetition_penalty != 1.0:
            self._seen = _scattered([(token, 1.0) for token in set(self._prompt)], size)
        if asked.logit_bias:
            self._bias = _scattered(list(asked.logit_bias), size)
        if asked.dry is not None:
            self._dry = DryPenalty(asked.dry, self._prompt, self._bytes_of)

    def _penalised(self, logits: mx.array) -> mx.array:
        asked = self._asked
        if self._seen is not None:
            penalty = asked.repetition_penalty
            logits = mx.where(self._seen > 0, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self._counts is not None:
            counts = self._counts
            logits = logits - asked.frequency_penalty * counts - asked.presence_penalty * (counts > 0)
        if self._dry is not None and (penalties := self._dry.penalties()):
            logits = logits - _scattered(list(penalties.items()), logits.shape[-1])
        return logits if self._bias is None else logits + self._bias


def _scattered(values: list[tuple[int, float]], size: int) -> mx.array:
    """Zeros of shape (size,) but for `values`, (place, value) each; places outside are left out."""
    inside = [(place, value) for place, value in values if place < size]
    if not inside:
        return mx.zeros((size,))
    places, numbers = zip(*inside, strict=True)
    return mx.zeros((size,)).at[mx.array(places)].add(mx.array(numbers, dtype=mx.float32))
