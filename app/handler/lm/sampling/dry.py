"""DRY: which tokens would lengthen a repetition, and how much that costs them.

Source: llama.cpp's llama_sampler_dry_apply, over the whole context; https://github.com/oobabooga/text-generation-webui/pull/5677
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.handler.lm.sampling.parameters import Dry

# What the prompt ends with is looked up at no greater length.
_LONGEST_AT_FIRST = 256
# As good as forbidden; what a grammar rules out stays below.
_MOST = 1e4


class DryPenalty:
    """One row's context, and what it ends with that was there before. Owned by the worker's main thread."""

    __slots__ = ("_asked", "_breakers", "_bytes_of", "_lengths", "_size", "_tail", "_tokens")

    def __init__(self, asked: Dry, prompt: list[int], bytes_of: Callable[[int], bytes]) -> None:
        """`bytes_of` spells a token."""
        self._asked = asked
        self._bytes_of = bytes_of
        self._breakers = [breaker.encode() for breaker in asked.breakers]
        self._size = max(0, len(prompt) - _LONGEST_AT_FIRST)
        self._tokens: NDArray[np.int64] = np.array([*prompt, 0], dtype=np.int64)
        # For each place, how many tokens up to it are the same as those up to the end, back to the last breaker.
        self._lengths: NDArray[np.int64] = np.zeros(len(self._tokens), dtype=np.int64)
        # The text before the end, as far as a breaker could begin there.
        self._tail = b""
        for token in prompt[max(0, self._size - max(map(len, self._breakers), default=0)) : self._size]:
            self._is_break(token)
        for token in prompt[self._size :]:
            self.push(token)

    def push(self, token: int) -> None:
        """The context has grown by a token."""
        size = self._size
        if size == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        if self._is_break(token):
            self._lengths[:size] = 0
        else:
            longer = np.concatenate([[0], self._lengths[: size - 1]])[:size] + 1
            self._lengths[:size] = np.where(self._tokens[:size] == token, longer, 0)
        self._tokens[size] = token
        self._size += 1

    def penalties(self) -> dict[int, float]:
        """By token: what is to be taken off its logit."""
        asked = self._asked
        start = 0 if asked.last_n < 0 else max(0, self._size - asked.last_n)
        lengths = self._lengths[start : self._size - 1]
        lengths = np.minimum(lengths, np.arange(1, len(lengths) + 1))
        longest: dict[int, int] = {}
        for place in np.flatnonzero(lengths >= asked.allowed_length).tolist():
            token = int(self._tokens[start + place + 1])
            longest[token] = max(longest.get(token, 0), int(lengths[place]))
        return {
            token: self._penalty(length)
            for token, length in longest.items()
            if not any(breaker in self._bytes_of(token) for breaker in self._breakers)
        }

    def _penalty(self, length: int) -> float:
        try:
            return min(_MOST, self._asked.multiplier * self._asked.base ** (length - self._asked.allowed_length))
        except OverflowError:
            return _MOST

    def _is_break(self, token: int) -> bool:
        """Whether a breaker ends in this token, which is then in the tail."""
        start, text = len(self._tail), self._tail + self._bytes_of(token)
        is_break = any(text.find(breaker, max(0, start - len(breaker) + 1)) >= 0 for breaker in self._breakers)
        longest = max(map(len, self._breakers), default=0)
        self._tail = text[max(0, len(text) - longest + 1) :] if longest > 1 else b""
        return is_break
