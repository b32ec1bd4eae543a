"""The phases of an answer: reasoning, then a text of a certain form, or free text in which such texts open.

A phase says what may come next, takes a token and gives the phase to go on with. Owned by the worker's main thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.handler.lm.grammar import Grammar
from app.handler.lm.markers import Marker
from app.handler.lm.masks import Words, mask_of_one
from app.handler.lm.vocabulary import Vocabulary

# White space between the end of the reasoning and an answer that does not begin with it, in tokens.
_MOST_SPACES: Final = 4
# Tokens that reasoning leaves to an answer beside the fewest that it takes: no more than JSON in a hurry has in hand.
_ROOM_FOR_ANSWER: Final = 12


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


@dataclass(frozen=True, slots=True)
class ReasoningPlan:
    """How the reasoning before an answer begins and ends; the tokens `closing` end it when `budget` are spent.

    By how much of the marker has been seen: `beginnings` are the tokens that `open` can go on with, `overruns` those
    that complete `close` and go on with what is not white space.
    """

    open: Marker
    beginnings: Sequence[Words]
    close: Marker
    overruns: Mapping[int, Words]
    closing: list[int]
    budget: int | None
    answer: AnswerPlan

    def begin(self, num_left: int, *, is_open: bool) -> Phase:
        """The first phase; `is_open` when the prompt has opened the reasoning."""
        return Thinking(self).unless_over(num_left) if is_open else Undecided(self, self.answer.begin(num_left))


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


class Undecided(Phase):
    """The very beginning, where the model may open its reasoning or begin its answer."""

    __slots__ = ("_answer", "_num_seen", "_plan")

    def __init__(self, plan: ReasoningPlan, answer: Phase | None, num_seen: int = 0) -> None:
        self._plan = plan
        # None once it is certain that reasoning is being opened.
        self._answer = answer
        self._num_seen = num_seen

    def allowed(self) -> Words | None:
        words = self._answer.allowed() if self._answer is not None else None
        if self._plan.answer.grammar is None:
            return words
        beginnings = self._plan.beginnings[self._num_seen]
        return beginnings if words is None else words | beginnings

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        answer, self._answer = self._answer, None
        if answer is not None and (token is None or not isinstance(answer, Held) or answer.grammar.takes(token)):
            self._answer = answer.advance(token, text, num_left)
        begun = self._plan.open.begin(self._num_seen, token, text)
        if begun is not None:
            self._num_seen, rest = begun
            # The token that opens the reasoning is none of its own.
            return self if rest is None else Thinking(self._plan, -1).advance(None, rest, num_left)
        if self._answer is None:
            raise ValueError("neither reasoning nor an answer begins so")
        return self if not self._num_seen and text.isspace() else self._answer

    def copy(self) -> "Undecided":
        return Undecided(self._plan, self._answer.copy() if self._answer is not None else None, self._num_seen)


class Thinking(Phase):
    """Reasoning, until its end marker or until its tokens are spent. Before a grammar it is no end of the answer."""

    __slots__ = ("_num_seen", "_num_taken", "_plan")

    def __init__(self, plan: ReasoningPlan, num_taken: int = 0, num_seen: int = 0) -> None:
        self._plan = plan
        self._num_taken = num_taken
        self._num_seen = num_seen

    @property
    def reads_tokens(self) -> bool:
        answer, budget = self._plan.answer, self._plan.budget
        is_near_end = budget is not None and self._num_taken + 1 >= budget
        return is_near_end or answer.grammar is not None or bool(answer.late)

    def allowed(self) -> Words | None:
        if self._plan.answer.grammar is None:
            return None
        vocabulary, overruns = self._plan.answer.vocabulary, self._plan.overruns.get(self._num_seen)
        words = vocabulary.all & ~vocabulary.ends
        return words if overruns is None else words & ~overruns

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        self._num_taken += 1
        self._num_seen, rest = self._plan.close.find(self._num_seen, token, text)
        if rest is not None:
            return self._plan.answer.begin_after_reasoning(num_left, rest)
        return self.unless_over(num_left)

    def unless_over(self, num_left: int) -> Phase:
        """Go on while there are tokens for it."""
        plan, grammar = self._plan, self._plan.answer.grammar
        is_spent = plan.budget is not None and self._num_taken >= plan.budget
        if grammar is not None:
            is_spent |= num_left <= len(plan.closing) + _MOST_SPACES + grammar.num_required + _ROOM_FOR_ANSWER
        return Closing(plan.answer, plan.closing) if is_spent else self

    def copy(self) -> "Thinking":
        return Thinking(self._plan, self._num_taken, self._num_seen)


class Closing(Phase):
    """The end of the reasoning, by force."""

    __slots__ = ("_answer", "_tokens")

    def __init__(self, answer: AnswerPlan, tokens: list[int]) -> None:
        self._answer = answer
        self._tokens = tokens

    def allowed(self) -> Words:
        return mask_of_one(self._tokens[0], self._answer.vocabulary.size)

    def forced(self) -> list[int]:
        return self._tokens

    def advance(self, token: int | None, text: bytes, num_left: int) -> Phase:
        self._tokens = self._tokens[1:]
        return self if self._tokens else self._answer.begin_after_reasoning(num_left)

    def copy(self) -> "Closing":
        return Closing(self._answer, self._tokens)


class Spacing(Phase):
    """White space between the reasoning and a grammar, which begins with the first token that it takes."""

    __slots__ = ("_grammar", "_num_spaces", "_spaces")

    def __init__(self, grammar: Grammar, spaces: Words, num_spaces: int = _MOST_SPACES) -> None:
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
