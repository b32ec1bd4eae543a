"""What a token costs in prefill passes of different lengths."""

from typing import Final

FEWEST_TOKENS: Final = 16
# How much the newest measurement counts. Slower is believed at once: it is the one that somebody waits for.
_WEIGHT: Final = 0.5
_WEIGHT_OF_SLOWER: Final = 0.8
# A pass in which kernels were compiled, or the machine was busy elsewhere, counts as so many times what was expected at
# most: where it really does take that long, the next ones say so.
_MOST_TIMES: Final = 4.0


class PassCost:
    """Seconds per token, by length of the pass: lengths from 16, from 32, from 64 and so on are kept apart.

    A GPU takes some time for a pass however short it is, so that one price for all tokens, learnt from a short pass,
    would make every pass short. A token of a longer pass is taken to cost no more than one of a shorter: what is known
    of one length corrects what was known of the others. Owned by the worker's main thread.
    """

    def __init__(self) -> None:
        self._token_s: dict[int, float] = {}

    @property
    def is_known(self) -> bool:
        """Whether any pass was measured."""
        return bool(self._token_s)

    @property
    def shortest_s(self) -> float | None:
        """Seconds that the shortest pass takes, once there was one."""
        token_s = self._token_s.get(0)
        return None if token_s is None else FEWEST_TOKENS * token_s

    def note(self, num_tokens: int, seconds: float) -> None:
        """A pass over this many tokens took this long."""
        length = _length(num_tokens)
        token_s = seconds / max(FEWEST_TOKENS, num_tokens)
        old = self._token_s.get(length)
        if old is not None:
            token_s = min(token_s, _MOST_TIMES * old)
            token_s = old + (_WEIGHT_OF_SLOWER if token_s > old else _WEIGHT) * (token_s - old)
        self._token_s[length] = token_s
        for other, theirs in self._token_s.items():
            if (theirs < token_s) if other < length else (theirs > token_s):
                self._token_s[other] = token_s

    def tokens_in(self, seconds: float, most_tokens: int) -> int:
        """The longest pass that takes no longer; at least the shortest there is."""
        for length in range(_length(most_tokens), -1, -1):
            shortest = FEWEST_TOKENS << length
            fitting = int(seconds / self._expected_token_s(length))
            if fitting >= shortest:
                return min(most_tokens, fitting, 2 * shortest - 1)
        return min(most_tokens, FEWEST_TOKENS)

    def _expected_token_s(self, length: int) -> float:
        """Of lengths that were never tried: as of the nearest shorter, or else the nearest longer."""
        shorter = [known for known in self._token_s if known <= length]
        return self._token_s[max(shorter) if shorter else min(self._token_s)]


def _length(num_tokens: int) -> int:
    return max(1, num_tokens // FEWEST_TOKENS).bit_length() - 1
