"""How JSON comes to its end before its tokens are used up.

A model can go on for ever inside of a string, an array or a recursive schema; cut off, the answer would be no JSON at
all. When few tokens are left for what is still open, only tokens that close something are let through, wherever the
schema allows one of them.
"""

import re

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

Words = NDArray[np.uint32]

# By what is open: inside of a string its end; outside of one whatever opens nothing, else the end of a number before
# another key, else the shortest string.
_IN_STRING = (re.compile(rb'"[\]}\s]*'),)
_OUTSIDE = (
    re.compile(rb"\s*(?:null|true|false)?[\]}\s]*"),
    re.compile(rb'\s*,\s*"?'),
    re.compile(rb'\s*"{1,2}[\]}\s]*'),
)
# Tokens to keep in hand for each open bracket, and for what may be required besides.
_TOKENS_PER_LEVEL = 4
_TOKENS_IN_HAND = 16
_WORD_BITS = 32


class JsonClosers:
    """Which tokens of one vocabulary close something. Immutable."""

    __slots__ = ("in_string", "outside", "texts")

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.texts = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self.in_string = [self._mask(pattern) for pattern in _IN_STRING]
        self.outside = [self._mask(pattern) for pattern in _OUTSIDE]

    def _mask(self, pattern: re.Pattern[bytes]) -> Words:
        bits = np.zeros(-len(self.texts) % _WORD_BITS + len(self.texts), dtype=np.uint8)
        bits[: len(self.texts)] = [bool(text.strip()) and pattern.fullmatch(text) is not None for text in self.texts]
        return np.packbits(bits, bitorder="little").view(np.uint32)


class JsonEnding:
    """Follows one row's JSON: what is open, and how many of its tokens are left."""

    __slots__ = ("_closers", "_is_escaped", "_is_in_string", "_num_left", "_num_open")

    def __init__(self, closers: JsonClosers, max_tokens: int) -> None:
        self._closers = closers
        self._num_left = max_tokens
        self._num_open = 0
        self._is_in_string = False
        self._is_escaped = False

    def advance(self, token: int) -> None:
        """Take a token."""
        self._num_left -= 1
        for character in self._closers.texts[token] if token < len(self._closers.texts) else b"":
            self._take(character)

    def _take(self, character: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == ord('"'):
            self._is_in_string = not self._is_in_string
        elif self._is_in_string:
            self._is_escaped = character == ord("\\")
        elif character in b"{[":
            self._num_open += 1
        elif character in b"}]":
            self._num_open -= 1

    def narrowed(self, words: Words) -> Words:
        """Of the tokens in a mask, when it is time, those that close something; all of them where none does."""
        if self._num_left > _TOKENS_IN_HAND + _TOKENS_PER_LEVEL * self._num_open:
            return words
        for closers in self._closers.in_string if self._is_in_string else self._closers.outside:
            allowed = words & closers[: len(words)]
            if allowed.any():
                return allowed
        return words

    def copy(self) -> "JsonEnding":
        """The same state, to go on from independently."""
        other = JsonEnding(self._closers, self._num_left)
        other._num_open = self._num_open
        other._is_in_string, other._is_escaped = self._is_in_string, self._is_escaped
        return other
