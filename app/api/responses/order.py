"""A response that was asked for, from the wire to the neutral request."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from app.api.media.attachments import Attachments
from app.api.output_format import schema_text
from app.api.responses.messages import system_message, to_messages
from app.api.responses.toolbox import Toolbox
from app.api.sampling_fields import to_sampling, to_stops
from app.core.conversation import Conversation, Reasoning
from app.core.output_format import JsonObject, JsonSchema, OutputFormat
from app.core.requests import GenerationRequest
from app.errors import InvalidRequest
from app.schemas.responses import ReasoningOptions, ResponseRequest, TextFormat, TextOptions
from app.schemas.responses_items import KeptItem, ToolsItem


@dataclass(frozen=True, slots=True)
class Input:
    """What a response is made from: the items before it, and its own, completed."""

    history: list[KeptItem] = field(default_factory=list[KeptItem])
    items: list[KeptItem] = field(default_factory=list[KeptItem])

    def placed(self) -> Iterator[tuple[str, KeptItem]]:
        """All items, each with its place for an error to name."""
        for item in self.history:
            yield f"item {item.id}", item
        for index, item in enumerate(self.items):
            yield f"input[{index}]", item

    def tools(self) -> list[ToolsItem]:
        """The items that bring tools."""
        return [item for item in (*self.history, *self.items) if isinstance(item, ToolsItem)]


@dataclass(frozen=True, slots=True)
class Order:
    """A body, and what its input comes to for a model."""

    body: ResponseRequest
    given: Input
    toolbox: Toolbox
    conversation: Conversation


def to_order(body: ResponseRequest, given: Input, attachments: Attachments) -> Order:
    """Translate what makes the prompt. Errors: InvalidRequest."""
    toolbox = to_toolbox(body, given)
    return Order(body, given, toolbox, to_conversation(body, given, toolbox, attachments))


def to_toolbox(body: ResponseRequest, given: Input) -> Toolbox:
    """The tools of the request and of its input. Errors: InvalidRequest."""
    tools = list(body.tools or ())
    for item in given.tools():
        tools += [tool for tool in item.tools if tool not in tools]
    return Toolbox(tools)


def to_conversation(body: ResponseRequest, given: Input, toolbox: Toolbox, attachments: Attachments) -> Conversation:
    """What the model is told. Errors: InvalidRequest."""
    messages = to_messages(given.placed(), attachments)
    if body.instructions:
        messages.insert(0, system_message(body.instructions))
    if not messages:
        raise InvalidRequest("'input' is missing or empty.", param="input", code="missing_required_parameter")
    text = body.text or TextOptions()
    return Conversation(
        messages=messages,
        tools=toolbox.tool_use(body.tool_choice, is_parallel=body.parallel_tool_calls is not False),
        reasoning=Reasoning(effort=(body.reasoning or ReasoningOptions()).effort),
        template_arguments={"verbosity": text.verbosity} if text.verbosity is not None else {},
    )


def to_generation(body: ResponseRequest, conversation: Conversation) -> GenerationRequest:
    """Translate a body. Errors: InvalidRequest."""
    return GenerationRequest(
        prompt=conversation,
        sampling=to_sampling(body),
        max_tokens=body.max_output_tokens,
        stop=to_stops(body.stop),
        output_format=_output_format(body.text.format if body.text is not None else None),
        top_logprobs=body.top_logprobs or 0 if has_logprobs(body) else None,
        cache_namespace=body.prompt_cache_key or "",
        repetition_guard=body.repetition_guard,
    )


def has_logprobs(body: ResponseRequest) -> bool:
    """Whether the text comes with log-probabilities."""
    return bool(body.top_logprobs) or "message.output_text.logprobs" in (body.include or ())


def _output_format(asked: TextFormat | None) -> OutputFormat | None:
    match asked:
        case None | TextFormat(type="text"):
            return None
        case TextFormat(type="json_object"):
            return JsonObject()
        case _:
            for name, value in (("name", asked.name), ("schema", asked.schema_)):
                if value is None:
                    raise InvalidRequest(
                        f"'text.format.{name}' is missing: the type 'json_schema' needs it.",
                        param=f"text.format.{name}",
                        code="missing_required_parameter",
                    )
            return JsonSchema(
                schema_text(asked.schema_ or {}, "text.format.schema"), asked.name or "", bool(asked.strict)
            )
