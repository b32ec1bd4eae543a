"""The phases before an answer: reasoning, its end by force, and the beginning where there may be any or none.

See `phases`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.handler.lm.guides.markers import Marker
from app.handler.lm.guides.masks import Words, mask_of_one
from app.handler.lm.guides.phases import MOST_SPACES, AnswerPlan, Held, Phase

# Tokens that reasoning leaves to an answer beside the fewest that it takes: no more than JSON in a hurry has in hand.
_ROOM_FOR_ANSWER: Final = 12


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
            is_spent |= num_left <= len(plan.closing) + MOST_SPACES + grammar.num_required + _ROOM_FOR_ANSWER
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
