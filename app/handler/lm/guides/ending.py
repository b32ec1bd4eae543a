"""How a text that could go on for ever comes to its end before its tokens are used up."""

from abc import ABC, abstractmethod
from typing import Final, Protocol, Self

from app.handler.lm.guides.masks import Words
from app.handler.lm.guides.vocabulary import Vocabulary

# Tokens to keep in hand beside what the shortest text takes.
_TOKENS_IN_HAND: Final = 16


class Outlook(Protocol):
    """What would come of going on in some way; the text itself stays where it is."""

    def after(self, token: int) -> Words | None:
        """The next mask after this token; None where it may not come."""
        ...

    def after_text(self, text: bytes) -> tuple[int, Words] | None:
        """The first token of this text, and the next mask after all of it; None where it may not come."""
        ...


class Ending(ABC):
    """Counts one row's tokens. Owned by the worker's main thread."""

    __slots__ = ("_num_in_hand", "_num_left", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._num_in_hand = _TOKENS_IN_HAND
        # None for as many as it takes.
        self._num_left: int | None = None

    def expect(self, num_tokens: int) -> None:
        """The shortest text takes about so many tokens."""
        self._num_in_hand = _TOKENS_IN_HAND + num_tokens

    def limit(self, num_left: int) -> None:
        """So many tokens are left from here on."""
        self._num_left = num_left

    def spend(self) -> None:
        """A token is gone that is none of the text's."""
        if self._num_left is not None:
            self._num_left -= 1

    def advance_token(self, token: int) -> None:
        """Take a token."""
        self.spend()
        self.advance(self._vocabulary.bytes_of(token))

    @abstractmethod
    def advance(self, text: bytes) -> None:
        """Take what a token, or a part of one, says."""

    @abstractmethod
    def narrowed(self, words: Words, outlook: Outlook) -> Words:
        """Of the tokens in a mask, those that lead to the end; all of them where that is not known."""

    @property
    def is_due(self) -> bool:
        """Whether all tokens that are left are needed to come to the end."""
        return self._num_left is not None and self._num_left <= self._num_in_hand + self._num_to_close()

    def _may_end(self, words: Words) -> bool:
        return bool((words & self._vocabulary.ends).any())

    def _num_to_close(self) -> int:
        """Tokens to keep in hand for what is open."""
        return 0

    def copy(self) -> Self:
        """The same state, to go on from independently."""
        other = self._fresh()
        other._num_in_hand, other._num_left = self._num_in_hand, self._num_left
        return other

    @abstractmethod
    def _fresh(self) -> Self:
        """Another for the same tokens, where the text is now."""
