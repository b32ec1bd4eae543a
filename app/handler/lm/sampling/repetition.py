"""Answers that have come into a loop."""

import numpy as np
from numpy.typing import NDArray

_LONGEST = 64


class RepetitionGuard:
    """Says when the same sequence of 1 to 64 tokens has come so many times in a row."""

    __slots__ = ("_last", "_needed", "_runs")

    def __init__(self, num_times: int) -> None:
        periods = np.arange(1, _LONGEST + 1)
        # For each period: how many tokens up to the last are those of one period before, and how many it takes.
        self._runs: NDArray[np.int64] = np.zeros(_LONGEST, dtype=np.int64)
        self._needed: NDArray[np.int64] = periods * (num_times - 1)
        # The newest first.
        self._last: NDArray[np.int64] = np.full(_LONGEST, -1, dtype=np.int64)

    def push(self, token: int) -> bool:
        """Take a token; whether it completes the last repetition."""
        self._runs = np.where(self._last == token, self._runs + 1, 0)
        self._last[1:] = self._last[:-1].copy()
        self._last[0] = token
        return bool((self._runs >= self._needed).any())
