"""POST /v1/messages on the wire: what is asked.

`cache_control` may stand anywhere and is not declared: it asks for nothing here, where every prefix is cached anyway.

Source: https://platform.claude.com/docs/en/api/messages
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from app.schemas.base import NaturalInt, PositiveInt, Probability, TopP, Unsupported, WireModel, refused_unless
from app.schemas.tools import MAX_TOOLS, ToolName

MAX_MESSAGES = 10_000
MAX_STOPS = 64


class TextBlock(WireModel):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(WireModel):
    """What an assistant thought, as this server told it."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(WireModel):
    """What another server's assistant thought and nobody can read."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(WireModel):
    """A call that an assistant made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class ToolResultBlock(WireModel):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: "str | list[ContentBlock] | None" = None
    is_error: bool | None = None


class ToolReferenceBlock(WireModel):
    """A tool that was looked for and found: from here on the model knows it."""

    type: Literal["tool_reference"]
    tool_name: str


class DocumentSource(WireModel):
    """Where a document's text is; other types than text and content are refused by the translation."""

    type: str
    data: str | None = None
    content: "str | list[ContentBlock] | None" = None


class CitationsConfig(WireModel):
    """Whether the answer is to say which place of the document it took something from."""

    enabled: Annotated[bool | None, refused_unless(False)] = None


class DocumentBlock(WireModel):
    """A document, its title, and what is to be known about it."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None
    citations: CitationsConfig | None = None


class ImageSource(WireModel):
    """Where a picture is: base64 in `data`, or a URL; other types are refused by the translation."""

    type: str
    data: str | None = None
    url: str | None = None


class ImageBlock(WireModel):
    """A picture."""

    type: Literal["image"]
    source: ImageSource


_TYPES = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result", "tool_reference", "document", "image")


class OtherBlock(WireModel):
    """A block of a type that the translation refuses by its name."""

    type: Annotated[str, Field(json_schema_extra={"not": {"enum": [*_TYPES]}})]


def _kind_of_block(block: Any) -> str:
    """The tag of a block's class: not an identifier, so that it is left out of an error's path."""
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return f"{kind} block" if kind in _TYPES else "other block"


ContentBlock = Annotated[
    Annotated[TextBlock, Tag("text block")]
    | Annotated[ThinkingBlock, Tag("thinking block")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking block")]
    | Annotated[ToolUseBlock, Tag("tool_use block")]
    | Annotated[ToolResultBlock, Tag("tool_result block")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference block")]
    | Annotated[DocumentBlock, Tag("document block")]
    | Annotated[ImageBlock, Tag("image block")]
    | Annotated[OtherBlock, Tag("other block")],
    Discriminator(_kind_of_block),
]


class WireMessage(WireModel):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class MessagesTool(WireModel):
    """A tool that the client runs; those of other types than custom are refused by the translation.

    One with `defer_loading` is not told to the model until a tool_reference names it.
    """

    type: str | None = None
    name: ToolName | None = None
    description: str | None = None
    input_schema: dict[str, JsonValue] | None = None
    input_examples: list[JsonValue] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: Annotated[Any, refused_unless(["direct"])] = None


class MessagesToolChoice(WireModel):
    """How free the model is to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(WireModel):
    """Whether the model thinks, for how many tokens, and whether the client is told what."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: PositiveInt | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonOutputFormat(WireModel):
    """A JSON schema that the answer keeps to."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class OutputConfig(WireModel):
    """How much the model makes of its answer, and in what form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutputFormat | None = None
    task_budget: Unsupported = None


class ContextEdit(WireModel):
    """What is taken out of the conversation before the model reads it; one type is known, and its `keep` translated."""

    type: str
    keep: JsonValue = None


class ContextManagement(WireModel):
    """The edits, in order."""

    edits: list[ContextEdit] | None = None


class CountTokensRequest(WireModel):
    """The part of a body that makes the prompt: the whole body of count_tokens."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {"examples": [{"model": "default", "messages": [{"role": "user", "content": "Hello!"}]}]}
    }

    model: str | None = None
    messages: Annotated[list[WireMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[MessagesTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    # As betas had it; now it is `output_config.format`.
    output_format: JsonOutputFormat | None = None
    context_management: ContextManagement | None = None
    mcp_servers: Annotated[Any, refused_unless([])] = None
    speed: Annotated[str | None, refused_unless("standard")] = None


class Diagnostics(WireModel):
    """The reply that this request is to be compared with."""

    previous_message_id: str | None = None


class Metadata(WireModel):
    """Said about the request, not asked of the model."""

    user_id: str | None = None


class MessagesRequest(CountTokensRequest):
    """The body of a messages request."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {
            "examples": [
                {"model": "default", "max_tokens": 256, "messages": [{"role": "user", "content": "Hello!"}]},
            ]
        }
    }

    max_tokens: PositiveInt
    temperature: Probability | None = None
    top_p: TopP | None = None
    top_k: NaturalInt | None = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: Diagnostics | None = None
    container: Unsupported = None
    inference_geo: Annotated[str | None, refused_unless("global")] = None


class ModelsQuery(WireModel):
    """Which models to list: so many, those after one or those before one."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 20
    after_id: str | None = None
    before_id: str | None = None
