"""How the next token of each row is drawn: one call for the whole batch, whatever each row asks for."""

import random
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from app.handler.lm.sampling.lanes import DrawnNumbers, Lane, Stages
from app.handler.lm.sampling.parameters import SamplingParameters
from app.handler.lm.sampling.penalties import RowPenalties


class RowSampler:
    """One row's random numbers and penalties. Owned by the worker's main thread.

    Each token takes its numbers from the row's own generator, so a seeded row repeats exactly whoever its neighbours
    are.
    """

    __slots__ = ("_is_repeated", "_numbers", "_random", "parameters", "penalties")

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt: list[int],
        choice: int = 0,
        bytes_of: Callable[[int], bytes] = lambda _token: b"",
    ) -> None:
        """`bytes_of` spells a token, for DRY's sequence breakers."""
        self.parameters = parameters
        self.penalties = RowPenalties(parameters, prompt, bytes_of)
        # The choices of one seeded request differ, and the first is what a request for one gets.
        seed = parameters.seed
        self._random = random.Random(seed if seed is None or not choice else f"{seed}/{choice}")
        self._numbers: DrawnNumbers | None = None
        self._is_repeated = False

    @property
    def reads_tokens(self) -> bool:
        """Whether `penalties.note` has to be told each token before the next one is drawn."""
        return self.parameters.dry is not None

    def next_numbers(self) -> DrawnNumbers:
        """What the next token is drawn with."""
        if self._numbers is None or not self._is_repeated:
            bits = int(self._random.random() * 2**32)
            chance = self.parameters.xtc_probability
            self._numbers = DrawnNumbers(bits, chance > 0 and self._random.random() < chance)
        self._is_repeated = False
        return self._numbers

    def skip(self, tokens: list[int], size: int) -> None:
        """Tokens, of a vocabulary of this size, have come without being drawn; those after them do not notice."""
        for _ in tokens:
            self.next_numbers()
        self.penalties.count(tokens, size)

    def step_back(self) -> None:
        """The row joins a batch: what was drawn for it last, if anything, is drawn again with the same numbers."""
        self._is_repeated = True


class BatchSampler:
    """The rows' parameters as arrays, laid out once for as long as the batch has the same rows."""

    def __init__(self, rows: list[RowSampler]) -> None:
        self._rows = rows
        by_stages: dict[Stages, list[int]] = {}
        for index, row in enumerate(rows):
            by_stages.setdefault(Stages.of(row.parameters), []).append(index)
        self._lanes = [
            (stages, indices, Lane([rows[index].parameters for index in indices], stages))
            for stages, indices in by_stages.items()
        ]
        order = [index for indices in by_stages.values() for index in indices]
        self._back = None if order == sorted(order) else mx.array(np.argsort(order))

    def __call__(self, logits: mx.array, tokens: mx.array, is_first: list[bool]) -> mx.array:
        """Draw a token per row, shape (rows,), from `logits`, shape (rows, vocabulary).

        `tokens`, shape (rows,), is what was fed to get them; newly generated, but where `is_first`.
        """
        drawn: list[mx.array] = []
        for stages, indices, lane in self._lanes:
            own = logits if len(indices) == len(self._rows) else logits[mx.array(indices)]
            if stages.is_adjusted:
                own = self._adjusted(own, indices, tokens, is_first)
            numbers = [] if stages.is_greedy else [self._rows[index].next_numbers() for index in indices]
            drawn.append(lane(own, numbers) if numbers else mx.argmax(own, axis=-1))
        if len(drawn) == 1:
            return drawn[0]
        together = mx.concatenate(drawn)
        return together if self._back is None else together[self._back]

    def _adjusted(self, logits: mx.array, indices: list[int], tokens: mx.array, is_first: list[bool]) -> mx.array:
        """The rows' logits with their penalties and biases."""
        adjusted: list[mx.array] = []
        for place, index in enumerate(indices):
            generated = None if is_first[index] else tokens[index : index + 1]
            adjusted.append(self._rows[index].penalties.adjust(generated, logits[place : place + 1]))
        return mx.concatenate(adjusted)
