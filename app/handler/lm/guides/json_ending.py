"""How JSON comes to its end before its tokens are used up.

A model can go on for ever inside of a string, an array or a recursive schema; cut off, the answer would be no JSON at
all. When few tokens are left for what is still open, only tokens that close something are let through, wherever the
schema allows one of them.
"""

import re

from app.handler.lm.guides.ending import Ending, Outlook
from app.handler.lm.guides.masks import Words, tokens_in
from app.handler.lm.guides.vocabulary import Vocabulary

# By what is open: inside of a string its end; outside of one a value that opens nothing, else the end of a number
# before another key, else the shortest string, else whatever opens nothing.
_IN_STRING = (re.compile(rb'"[\]}\s]*'),)
_OUTSIDE = (
    re.compile(rb"\s*(?:null|true|false)?[\]}\s]*"),
    re.compile(rb'\s*,\s*"?'),
    re.compile(rb'\s*"{1,2}[\]}\s]*'),
    re.compile(rb"[^\[{]+"),
)
# Tokens to keep in hand for each open bracket.
_TOKENS_PER_LEVEL = 4
# Tokens that are looked at one by one.
_MOST_TRIED = 16


class JsonClosers:
    """Which tokens of one vocabulary close something. Immutable."""

    __slots__ = ("in_string", "outside", "vocabulary")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.in_string = [_matching(pattern, vocabulary) for pattern in _IN_STRING]
        self.outside = [_matching(pattern, vocabulary) for pattern in _OUTSIDE]


class JsonEnding(Ending):
    """Follows one row's JSON, and the markup around it: what is open."""

    __slots__ = ("_closers", "_is_escaped", "_is_in_string", "_num_open")

    def __init__(self, closers: JsonClosers) -> None:
        super().__init__(closers.vocabulary)
        self._closers = closers
        self._num_open = 0
        self._is_in_string = False
        self._is_escaped = False

    def advance(self, text: bytes) -> None:
        """See `Ending.advance`."""
        for character in text:
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

    def _num_to_close(self) -> int:
        return _TOKENS_PER_LEVEL * self._num_open

    def narrowed(self, words: Words, outlook: Outlook) -> Words:
        """Those that end or close something; of few, those that complete the text and begin nothing after it."""
        inner = self._closers.in_string if self._is_in_string else self._closers.outside
        closing = next((one for one in (self._vocabulary.ends, *inner) if (words & one).any()), words)
        words = words & closing
        tokens: list[int] = tokens_in(words).tolist()
        if len(tokens) > _MOST_TRIED:
            return words
        completing = [token for token in tokens if (after := outlook.after(token)) is not None and self._may_end(after)]
        return self._vocabulary.mask(completing) if completing else words

    def _fresh(self) -> "JsonEnding":
        other = JsonEnding(self._closers)
        other._num_open, other._is_in_string, other._is_escaped = self._num_open, self._is_in_string, self._is_escaped
        return other


def _matching(pattern: re.Pattern[bytes], vocabulary: Vocabulary) -> Words:
    return vocabulary.mask(
        token for token, text in enumerate(vocabulary.spellings) if text.strip() and pattern.fullmatch(text) is not None
    )
