"""How JSON comes to its end before its tokens are used up.

A model can go on for ever inside of a string, an array or a recursive schema; cut off, the answer would be no JSON at
all. When few tokens are left for what is still open, only tokens that close something are let through, wherever the
schema allows one of them.
"""

import re

from app.handler.lm.masks import Words
from app.handler.lm.vocabulary import Vocabulary

# By what is open: inside of a string its end; outside of one a value that opens nothing, else the end of a number
# before another key, else the shortest string, else whatever opens nothing.
_IN_STRING = (re.compile(rb'"[\]}\s]*'),)
_OUTSIDE = (
    re.compile(rb"\s*(?:null|true|false)?[\]}\s]*"),
    re.compile(rb'\s*,\s*"?'),
    re.compile(rb'\s*"{1,2}[\]}\s]*'),
    re.compile(rb"[^\[{]+"),
)
# Tokens to keep in hand for each open bracket, and beside what the shortest text takes.
_TOKENS_PER_LEVEL = 4
_TOKENS_IN_HAND = 16


class JsonClosers:
    """Which tokens of one vocabulary close something. Immutable."""

    __slots__ = ("ends", "in_string", "outside", "texts")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.texts = vocabulary.spellings
        self.ends = vocabulary.ends
        self.in_string = [_matching(pattern, vocabulary) for pattern in _IN_STRING]
        self.outside = [_matching(pattern, vocabulary) for pattern in _OUTSIDE]


class JsonEnding:
    """Follows one row's JSON, and the markup around it: what is open, and how many of its tokens are left."""

    __slots__ = ("_closers", "_is_escaped", "_is_in_string", "_num_in_hand", "_num_left", "_num_open")

    def __init__(self, closers: JsonClosers) -> None:
        self._closers = closers
        self._num_in_hand = _TOKENS_IN_HAND
        # None for as many as it takes.
        self._num_left: int | None = None
        self._num_open = 0
        self._is_in_string = False
        self._is_escaped = False

    def expect(self, num_tokens: int) -> None:
        """The shortest text takes about so many tokens."""
        self._num_in_hand = _TOKENS_IN_HAND + num_tokens

    def limit(self, num_left: int | None) -> None:
        """So many tokens are left from here on."""
        self._num_left = num_left

    def spend(self) -> None:
        """A token is gone that is none of the text's."""
        if self._num_left is not None:
            self._num_left -= 1

    def advance(self, text: bytes) -> None:
        """Take what a token, or a part of one, says."""
        for character in text:
            self._take(character)

    def advance_token(self, token: int) -> None:
        """Take a token."""
        self.spend()
        if token < len(self._closers.texts):
            self.advance(self._closers.texts[token])

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
        """Of the tokens in a mask, when it is time, those that end or close something; all of them where none does."""
        if self._num_left is None or self._num_left > self._num_in_hand + _TOKENS_PER_LEVEL * self._num_open:
            return words
        inner = self._closers.in_string if self._is_in_string else self._closers.outside
        for closers in (self._closers.ends, *inner):
            allowed = words & closers
            if allowed.any():
                return allowed
        return words

    def copy(self) -> "JsonEnding":
        """The same state, to go on from independently."""
        other = JsonEnding(self._closers)
        other._num_in_hand, other._num_left, other._num_open = self._num_in_hand, self._num_left, self._num_open
        other._is_in_string, other._is_escaped = self._is_in_string, self._is_escaped
        return other


def _matching(pattern: re.Pattern[bytes], vocabulary: Vocabulary) -> Words:
    return vocabulary.mask(
        token for token, text in enumerate(vocabulary.spellings) if text.strip() and pattern.fullmatch(text) is not None
    )
