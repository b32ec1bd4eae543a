"""What a request asks of its answers' form, to guides."""

from dataclasses import dataclass

from app.handler.lm.guides.grammar import Grammar
from app.handler.lm.guides.grammar_compiler import CallFormat, Format, GrammarCompiler
from app.handler.lm.guides.guide import Guide, PhasedGuide
from app.handler.lm.guides.markers import Marker
from app.handler.lm.guides.masks import Words
from app.handler.lm.guides.phases import AnswerPlan, LateGrammar
from app.handler.lm.guides.reasoning_phases import ReasoningPlan
from app.handler.lm.guides.vocabulary import without_spaces


@dataclass(frozen=True, slots=True)
class ReasoningForm:
    """How a model marks its reasoning.

    `closing` is what it is made to say where its tokens are spent: `close`, and the white space that belongs there.
    `is_open` when the prompt ends within the reasoning; else the model may open it.
    """

    open: str
    close: str
    closing: str
    is_open: bool = False
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class LateForm:
    """What has to follow `opening` wherever a model says it."""

    opening: str
    format: CallFormat


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a request's answers are held to; `param` is the field of the request that says so.

    `whole` is the format of all that follows the reasoning, `late` those of what opens in free text.
    """

    whole: Format | None = None
    late: tuple[LateForm, ...] = ()
    reasoning: ReasoningForm | None = None
    param: str = "response_format"


class GuideBuilder:
    """Builds the guides of one model's rows. Owned by the prepare thread; makes no MLX arrays."""

    def __init__(self, grammars: GrammarCompiler) -> None:
        self._grammars = grammars
        self._vocabulary = grammars.vocabulary
        # By marker: as few as the model's family has.
        self._beginnings: dict[str, list[Words]] = {}

    def build(self, asked: AnswerForm, max_tokens: int) -> Guide | None:
        """The guide of an answer of at most `max_tokens`, at its start; None where nothing is asked.

        Errors: InvalidRequest, which says what is wrong with a format.
        """
        reasoning = asked.reasoning
        if asked.whole is None and not asked.late and (reasoning is None or reasoning.budget is None):
            return None
        answer = AnswerPlan(
            self._vocabulary,
            self._grammars.compile(asked.whole, param=asked.param) if asked.whole is not None else None,
            tuple(self._late(one, asked.param) for one in asked.late),
        )
        # Where nothing marks its beginning, only the prompt can open it.
        if reasoning is None or not (reasoning.is_open or reasoning.open):
            return PhasedGuide(self._vocabulary, answer.begin(max_tokens), max_tokens)
        phase = self._reasoning(reasoning, answer).begin(max_tokens, is_open=reasoning.is_open)
        return PhasedGuide(self._vocabulary, phase, max_tokens)

    def _reasoning(self, asked: ReasoningForm, answer: AnswerPlan) -> ReasoningPlan:
        """Masks are made for a grammar only: without one, nothing is ruled out."""
        begin, end = Marker(asked.open, self._vocabulary), Marker(asked.close, self._vocabulary)
        is_held = answer.grammar is not None
        return ReasoningPlan(
            open=begin,
            beginnings=self._beginnings_of(asked.open, begin) if is_held and not asked.is_open else (),
            close=end,
            overruns=end.overruns(self._vocabulary, lambda rest: not without_spaces(rest)) if is_held else {},
            closing=self._vocabulary.encode(asked.closing),
            budget=asked.budget,
            answer=answer,
        )

    def _beginnings_of(self, text: str, marker: Marker) -> list[Words]:
        if text not in self._beginnings:
            self._beginnings[text] = marker.beginnings(self._vocabulary)
        return self._beginnings[text]

    def _late(self, asked: LateForm, param: str) -> LateGrammar:
        grammar: Grammar = self._grammars.compile(asked.format, param=param)
        opening = Marker(asked.opening, self._vocabulary)
        return LateGrammar(opening, opening.overruns(self._vocabulary, grammar.takes_text), grammar)
