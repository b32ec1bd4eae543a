"""Log-probabilities of the generated tokens, for the rows that ask, without waiting for the device."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """One row's: of the chosen token, and (token, value) of the likeliest, the likeliest first."""

    chosen: float
    top: list[tuple[int, float]]


class PendingLogprobs:
    """The log-probabilities of a step that is being computed, of the model's own distribution: before the temperature,
    penalties and grammars.
    """

    def __init__(self, logits: mx.array, tokens: mx.array, asked: dict[int, tuple[int, int]]) -> None:
        """`asked` is {row id: (place in the batch, number of candidates)}.

        Shapes: `logits` (rows, vocabulary), `tokens` (rows,).
        """
        self._asked = asked
        places = mx.array([place for place, _ in asked.values()])
        chosen = logits[places].astype(mx.float32)
        normal = chosen - mx.logsumexp(chosen, axis=-1, keepdims=True)
        self._chosen = mx.take_along_axis(normal, tokens[places][:, None], axis=-1)[:, 0]
        most = min(max(count for _, count in asked.values()), logits.shape[-1])
        self._top = mx.argpartition(-normal, kth=most - 1, axis=-1)[:, :most] if most else None
        self._top_values = mx.take_along_axis(normal, self._top, axis=-1) if self._top is not None else None

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be computed along with the step."""
        return [array for array in (self._chosen, self._top, self._top_values) if array is not None]

    def read(self) -> dict[int, StepLogprobs]:
        """Each asking row's, by row id."""
        chosen: list[float] = self._chosen.tolist()  # type: ignore[assignment]
        tops: list[list[tuple[int, float]]] = [[] for _ in chosen]
        if self._top is not None and self._top_values is not None:
            tokens: list[list[int]] = self._top.tolist()  # type: ignore[assignment]
            values: list[list[float]] = self._top_values.tolist()  # type: ignore[assignment]
            # Of equals the lower token first, whatever order the device found them in.
            tops = [
                sorted(zip(ids, row, strict=True), key=lambda pair: (-pair[1], pair[0]))
                for ids, row in zip(tokens, values, strict=True)
            ]
        return {
            row_id: StepLogprobs(value, top[:count])
            for (row_id, (_, count)), value, top in zip(self._asked.items(), chosen, tops, strict=True)
        }


def known_logprobs(logits: mx.array, targets: list[list[int]], num_top: list[int]) -> list[list[StepLogprobs]]:
    """Those of tokens that are known already: of each row's `targets`, with `num_top` candidates beside each.

    Shape: `logits` (rows, tokens of the longest, vocabulary), of the tokens before the targets. Waits for the device.
    """
    together = mx.concatenate([logits[row, : len(tokens)] for row, tokens in enumerate(targets)])
    counts = [count for tokens, count in zip(targets, num_top, strict=True) for _ in tokens]
    known = mx.array([token for tokens in targets for token in tokens], dtype=mx.uint32)
    told = PendingLogprobs(together, known, {place: (place, count) for place, count in enumerate(counts)}).read()
    places = iter(range(len(counts)))
    return [[told[next(places)] for _ in tokens] for tokens in targets]
