"""Texts in a model's answer that begin or end something, however they are cut into tokens."""

from collections.abc import Callable, Mapping

from app.handler.lm.guides.masks import Words
from app.handler.lm.guides.vocabulary import Vocabulary


class Marker:
    """A text to find; where the vocabulary has a token of its own for it, only that token is the marker. Immutable.

    `num_seen` is how many of its bytes the text so far ends with.
    """

    __slots__ = ("_token", "text")

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text = text.encode()
        self._token = vocabulary.added.get(text)

    def find(self, num_seen: int, token: int | None, text: bytes) -> tuple[int, bytes | None]:
        """The new `num_seen` after a token's text, and what is left of that after the marker, once it is complete."""
        if self._token is not None:
            return 0, b"" if token == self._token else None
        if not num_seen and self.text[:1] not in text:
            return 0, None
        text = self.text[:num_seen] + text
        _, found, rest = text.partition(self.text)
        if found:
            return 0, rest
        longest = min(len(text), len(self.text) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(self.text[:size])), 0), None

    def begin(self, num_seen: int, token: int | None, text: bytes) -> tuple[int, bytes | None] | None:
        """The same where it has to come at once; None where it does not."""
        if self._token is not None:
            return (0, b"") if token == self._token else None
        text = self.text[:num_seen] + text
        if text.startswith(self.text):
            return 0, text[len(self.text) :]
        return (len(text), None) if self.text.startswith(text) else None

    def beginnings(self, vocabulary: Vocabulary) -> list[Words]:
        """By `num_seen`, the tokens that `begin` can go on with."""
        if self._token is not None:
            return [vocabulary.mask([self._token])]
        parts = [(token, text) for token, text in enumerate(vocabulary.spellings) if text and text in self.text]
        parts += vocabulary.going_beyond(self.text[-1:])
        return [
            vocabulary.mask(token for token, text in parts if self.begin(num_seen, token, text) is not None)
            for num_seen in range(len(self.text))
        ]

    def overruns(self, vocabulary: Vocabulary, may_follow: Callable[[bytes], bool]) -> Mapping[int, Words]:
        """By `num_seen`, where there are any, the tokens that complete it and go on with what may not follow it."""
        if self._token is not None:
            return {}
        candidates = vocabulary.going_beyond(self.text[-1:])
        overruns: dict[int, Words] = {}
        for num_seen in range(len(self.text)):
            rests = ((token, self.find(num_seen, token, text)[1]) for token, text in candidates)
            if tokens := [token for token, rest in rests if rest and not may_follow(rest)]:
                overruns[num_seen] = vocabulary.mask(tokens)
        return overruns
