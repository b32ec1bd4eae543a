"""The phases of an answer: a text of a certain form, or free text in which such texts open.

A phase says what may come next, takes a token and gives the phase to go on with. Owned by the worker's main thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.handler.lm.guides.grammar import Grammar
from app.handler.lm.guides.markers import Marker
from app.handler.lm.guides.masks import Words
from app.handler.lm.guides.vocabulary import Vocabulary

# White space between the end of the reasoning and an answer that does not begin with it, in tokens.
MOST_SPACES: Final = 4


class Phase(ABC):
    """What its methods have in common with those of a `Guide`; by itself one in which anything may come."""

    __slots__ = ()

    @property
    def reads_tokens(self) -> bool:
        """See `Guide.reads_tokens`."""
        return True

    def allowed(self) -> Words | None:
        """See `Guide.allowed`."""
        return None

    def forced(self) -> list[int]:
        """See `Guide.forced`."""
        return []

    @abstractmethod
    def advance(self, token: int | None, text: bytes, num_left: int) -> "Phase":
        """Take a token and its text, after which `num_left` are left; None is for the end of a token's text."""

    @abstractmethod
    def copy(self) -> "Phase":
        """See `Guide.copy`."""


@dataclass(frozen=True, slots=True)
class LateGrammar:
    """A grammar at its start, for what follows `opening` wherever that comes.

    `overruns` are the tokens that complete the opening and go on with what the grammar does not take, by how much of it
    has been seen.
    """

    opening: Marker
    overruns: Mapping[int, Words]
    grammar: Grammar


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What an answer is held to: all of it to a grammar, or what opens in it."""

    vocabulary: Vocabulary
    grammar: Grammar | None = None
    late: tuple[LateGrammar, ...] = ()

    def begin(self, num_left: int) -> Phase:
        """The answer's first phase."""
        if self.grammar is not None:
            return Held(self.grammar.start(num_left))
        return Watching(self.vocabulary, self.late) if self.late else Free()

    def begin_after_reasoning(self, num_left: int, rest: bytes = b"") -> Phase:
        """The same after the reasoning's end marker; `rest` came with it, white space if a grammar follows."""
        if self.grammar is not None:
            return Spacing(self.grammar.start(num_left), self.vocabulary.spaces)
        return self.begin(num_left).advance(None, rest, num_left)


class Free(Phase):
    """Anything may come to the end."""

    __slots__ = ()

    @property
    def reads_tokens(self) -> bool:
        return False

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        return self

    def copy(self) -> Phase:
        return self


class Held(Phase):
    """Text of a grammar: to the end, or where others may open late, until it is complete."""

    __slots__ = ("_then", "grammar")

    def __init__(self, grammar: Grammar, then: "Watching | None" = None) -> None:
        self.grammar = grammar
        self._then = then

    def allowed(self) -> Words:
        return self.grammar.allowed()

    def forced(self) -> list[int]:
        return self.grammar.forced()

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        if token is None:
            self.grammar.advance_text(text)
        else:
            self.grammar.advance(token)
        return self._then.copy() if self._then is not None and self.grammar.is_complete else self

    def copy(self) -> "Held":
        return Held(self.grammar.copy(), self._then)


class Watching(Phase):
    """Free text, until a late grammar's opening is complete; of several at once, the first of them."""

    __slots__ = ("_late", "_num_seen", "_vocabulary")

    def __init__(
        self, vocabulary: Vocabulary, late: tuple[LateGrammar, ...], num_seen: tuple[int, ...] | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self._late = late
        self._num_seen = num_seen or (0,) * len(late)

    def allowed(self) -> Words | None:
        words: Words | None = None
        for one, num_seen in zip(self._late, self._num_seen, strict=True):
            if (overruns := one.overruns.get(num_seen)) is not None:
                words = (self._vocabulary.all if words is None else words) & ~overruns
        return words

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        found = [
            one.opening.find(num_seen, token, text) for one, num_seen in zip(self._late, self._num_seen, strict=True)
        ]
        for one, (_, rest) in zip(self._late, found, strict=True):
            if rest is not None:
                held = Held(one.grammar.start(num_left), Watching(self._vocabulary, self._late))
                return held.advance(None, rest, num_left) if rest else held
        self._num_seen = tuple(num_seen for num_seen, _ in found)
        return self

    def copy(self) -> "Watching":
        return Watching(self._vocabulary, self._late, self._num_seen)


class Spacing(Phase):
    """White space between the reasoning and a grammar, which begins with the first token that it takes."""

    __slots__ = ("_grammar", "_num_spaces", "_spaces")

    def __init__(self, grammar: Grammar, spaces: Words, num_spaces: int = MOST_SPACES) -> None:
        self._grammar = grammar
        self._spaces = spaces
        self._num_spaces = num_spaces

    def allowed(self) -> Words:
        words = self._grammar.allowed()
        return words | self._spaces if self._num_spaces else words

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        if token is not None and self._grammar.takes(token):
            return Held(self._grammar).advance(token, text, num_left)
        self._grammar.skip()
        self._num_spaces -= 1
        return self

    def copy(self) -> "Spacing":
        return Spacing(self._grammar.copy(), self._spaces, self._num_spaces)
