"""How one model marks reasoning and calls: what its answers are read by, and what they can be held to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from app.core.conversation import Conversation, ToolUse
from app.core.output_format import JsonObject, JsonSchema, OutputFormat
from app.core.requests import GenerationRequest
from app.errors import ModelLoadError
from app.handler.lm.answer import Reading
from app.handler.lm.guides.grammar_compiler import CallFormat, Format
from app.handler.lm.guides.guide_builder import AnswerForm, LateForm, ReasoningForm
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.settings import ModelSpec
from app.settings.types import ReasoningMode
from app.text.call_grammar import call_grammar, lone_open
from app.text.detection import family_of_option
from app.text.families import FAMILIES
from app.text.family import Family, Reasoning, prompt_opens_reasoning
from app.text.lark import CallGrammar, LarkRules
from app.text.offered import OfferedTool, read_tools

_OFF: Final = "none"
_GENERIC: Final = "generic"


class ModelMarkup:
    """A model's family, None where its answers are plain text, and its markers' tokens. Owned by the prepare thread.

    `why` is a sentence for people.
    """

    def __init__(self, spec: ModelSpec, template: ChatTemplate, added_tokens: Mapping[str, int]) -> None:
        self.family, self.why = _chosen(spec, template)
        self._tool_family = _tool_family(self.family, template, is_told=spec.tool_call_parser is not None)
        self._mode: ReasoningMode = spec.reasoning
        self._tokens = added_tokens
        self._special = frozenset(added_tokens)
        self._special_tokens = frozenset(added_tokens.values())
        reasoning = self.family.reasoning if self.family is not None else None
        # Families share their data with relatives that do not think.
        self._may_think = reasoning is not None and (
            spec.reasoning_parser is not None or template.mentions(reasoning.close.strip())
        )

    def reading(self, conversation: Conversation, prompt_tail: str) -> Reading | None:
        """How answers in this conversation are to be read; None where they are plain text."""
        use = _offered(conversation)
        family = self._tool_family if use is not None else self.family
        if family is None:
            return None
        return Reading(
            family=family,
            tools=_tools(use) if use is not None else (),
            starts_in_reasoning=prompt_opens_reasoning(family, prompt_tail),
            special=self._special,
            special_tokens=self._special_tokens,
            mode=self._mode,
            is_parallel=use is None or use.is_parallel,
        )

    def form(self, request: GenerationRequest, reading: Reading | None, prompt_tail: str) -> AnswerForm:
        """What answers are held to."""
        asked = request.prompt
        if not isinstance(asked, Conversation):
            return AnswerForm(request.output_format)
        reasoning = self._reasoning_form(asked, reading, prompt_tail)
        use = _offered(asked)
        if reading is None:
            return AnswerForm(request.output_format, reasoning=reasoning)
        if use is None:
            return AnswerForm(self._answer(reading.family, request.output_format), reasoning=reasoning)
        if use.choice == "required":
            return AnswerForm(self._calls(reading, use), reasoning=reasoning, param="tools")
        if request.output_format is not None:
            return AnswerForm(self._calls_or(reading, use, request.output_format), reasoning=reasoning)
        return AnswerForm(late=self._strict_calls(reading, use), reasoning=reasoning, param="tools")

    def continued(self, prompt: str, begun: str) -> str:
        """A prompt that opens an answer, and the beginning of that answer, behind any reasoning."""
        family = self.family
        if family is None:
            return prompt + begun
        if family.reasoning is not None and prompt_opens_reasoning(family, prompt):
            prompt += _closing(family, family.reasoning)
        header = family.frame.answer if family.frame is not None else ""
        return prompt + header + begun

    def _reasoning_form(
        self, conversation: Conversation, reading: Reading | None, prompt_tail: str
    ) -> ReasoningForm | None:
        reasoning = reading.family.reasoning if reading is not None else None
        if reading is None or reasoning is None:
            return None
        is_open = bool(reading.starts_in_reasoning)
        asked = conversation.reasoning
        is_over = prompt_tail.rstrip().endswith(reasoning.closes) or asked.is_enabled is False or asked.effort == "none"
        if not is_open and (is_over or not self._may_think):
            return None
        closing = _closing(reading.family, reasoning)
        return ReasoningForm(reasoning.open.strip(), reasoning.close.strip(), closing, is_open, asked.max_tokens)

    def _calls(self, reading: Reading, use: ToolUse) -> CallFormat:
        calls = call_grammar(reading.family, reading.tools, is_parallel=use.is_parallel, tokens=self._tokens)
        return _format(calls, f"{self._turn(reading.family)} calls")

    def _calls_or(self, reading: Reading, use: ToolUse, other: OutputFormat) -> Format:
        """Calls, or JSON of some form; other forms leave no calls."""
        if (schema := _json_schema(other)) is None:
            return other
        calls = call_grammar(reading.family, reading.tools, is_parallel=use.is_parallel, tokens=self._tokens)
        answer = f"{self._header(reading.family)} schema_{len(calls.schemas)}"
        both = _format(calls, f"{self._turn(reading.family)} (calls | {answer})")
        return replace(both, schemas=(*both.schemas, schema))

    def _answer(self, family: Family, asked: OutputFormat | None) -> Format | None:
        """A form of the answer, behind the header that answers have in families that write messages."""
        schema = _json_schema(asked)
        if schema is None or not (header := self._header(family)):
            return asked
        return CallFormat(f"start: {self._turn(family)} {header} schema_0", (schema,))

    def _turn(self, family: Family) -> str:
        """In a rule: what may begin another message than that which the prompt has begun."""
        frame = family.frame
        return f"({LarkRules(self._tokens).text(frame.turn)})?" if frame is not None and frame.turn else ""

    def _header(self, family: Family) -> str:
        return LarkRules(self._tokens).text(family.frame.answer) if family.frame is not None else ""

    def _strict_calls(self, reading: Reading, use: ToolUse) -> tuple[LateForm, ...]:
        """Where a call may open by itself: the arguments of strict functions keep to their schemas."""
        strict = {tool.name for tool in use.tools if tool.strict}
        opening = lone_open(reading.family)
        if opening is None or not strict & {tool.name for tool in reading.tools}:
            return ()
        tools = [tool if tool.name in strict else OfferedTool(tool.name, {}) for tool in reading.tools]
        grammar = call_grammar(reading.family, tools, is_parallel=use.is_parallel, tokens=self._tokens, is_open=True)
        return (LateForm(opening, _format(grammar)),)


def _closing(family: Family, reasoning: Reasoning) -> str:
    """What ends reasoning from outside."""
    if family.frame is not None:
        return reasoning.close + family.frame.turn
    # Where the family does not say how, the close stands on a line of its own.
    return reasoning.close if reasoning.close != reasoning.close.strip() else f"\n{reasoning.close}\n\n"


def _offered(conversation: Conversation) -> ToolUse | None:
    use = conversation.tools
    return None if use is None or use.choice == "none" else use


def _tools(use: ToolUse) -> tuple[OfferedTool, ...]:
    return read_tools(tool for tool in use.tools if use.allowed is None or tool.name in use.allowed)


def _format(grammar: CallGrammar, start: str = "calls") -> CallFormat:
    """A grammar whose start is this rule, in which `calls` stands for its own."""
    schemas = tuple(JsonSchema(one.schema, one.function) for one in grammar.schemas)
    lark = f"start: {start.strip()}\n{grammar.lark.replace('start:', 'calls:', 1)}"
    return CallFormat(lark, schemas, grammar.is_json)


def _json_schema(asked: OutputFormat | None) -> JsonSchema | None:
    match asked:
        case JsonSchema():
            return asked
        case JsonObject():
            return JsonSchema('{"type":"object"}')
        case _:
            return None


def _chosen(spec: ModelSpec, template: ChatTemplate) -> tuple[Family | None, str]:
    """The family that the settings name, else the one that the template shows. Errors: ModelLoadError."""
    detected = template.detected
    tools = _named(spec.tool_call_parser, "--tool-call-parser", detected.family)
    thought = _named(spec.reasoning_parser, "--reasoning-parser", detected.family)
    calls, thoughts = FAMILIES.get(tools or ""), FAMILIES.get(thought or "")
    why = detected.why if spec.tool_call_parser is None and spec.reasoning_parser is None else "from the settings"
    if calls is None:
        return (None if thoughts is None else replace(thoughts, regions=())), why
    if thought == tools:
        return calls, why
    return replace(calls, reasoning=thoughts.reasoning if thoughts is not None else None), why


def _named(name: str | None, flag: str, detected: str | None) -> str | None:
    if name is None:
        return detected
    if name == _OFF:
        return None
    family = family_of_option(name, detected)
    if family is None:
        raise ModelLoadError(f"{flag} '{name}' is not known; use '{_OFF}' or one of: {', '.join(sorted(FAMILIES))}.")
    return family


def _tool_family(family: Family | None, template: ChatTemplate, *, is_told: bool) -> Family:
    """A model that is told of tools by the generic prompt answers as that says."""
    generic = FAMILIES[_GENERIC]
    if family is None:
        return generic
    return family if family.regions and (is_told or template.knows_tools) else replace(family, regions=generic.regions)
