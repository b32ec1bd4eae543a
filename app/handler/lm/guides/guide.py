"""What may come next in an answer, token by token."""

from typing import Protocol, Self

from app.handler.lm.guides.masks import Words
from app.handler.lm.guides.phases import Phase
from app.handler.lm.guides.vocabulary import Vocabulary


class Guide(Protocol):
    """Holds one row to something. Owned by the worker's main thread.

    Each token that is drawn goes to `advance`, in order, but for one that ends the answer. What is raised ends the row.
    """

    @property
    def reads_tokens(self) -> bool:
        """Whether it depends on the next token what may come after it; where not, that is anything."""
        ...

    def allowed(self) -> Words | None:
        """The mask of the next token, shape (words,); None for anything."""
        ...

    def forced(self) -> list[int]:
        """The next tokens as far as they are certain, perhaps none; `allowed` leaves the first of them alone."""
        ...

    def advance(self, token: int) -> None:
        """Take a token that `allowed` had."""
        ...

    def copy(self) -> Self:
        """The same state, to go on from independently."""
        ...


class PhasedGuide:
    """Goes through the phases of an answer of at most `num_left` tokens."""

    __slots__ = ("_num_left", "_phase", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, phase: Phase, num_left: int) -> None:
        self._vocabulary = vocabulary
        self._phase = phase
        self._num_left = num_left

    @property
    def reads_tokens(self) -> bool:
        """See `Guide.reads_tokens`."""
        return self._phase.reads_tokens

    def allowed(self) -> Words | None:
        """See `Guide.allowed`."""
        return self._phase.allowed()

    def forced(self) -> list[int]:
        """See `Guide.forced`."""
        return self._phase.forced()[: self._num_left]

    def advance(self, token: int) -> None:
        """See `Guide.advance`."""
        self._num_left -= 1
        self._phase = self._phase.advance(token, self._vocabulary.bytes_of(token), self._num_left)

    def copy(self) -> "PhasedGuide":
        """See `Guide.copy`."""
        return PhasedGuide(self._vocabulary, self._phase.copy(), self._num_left)
