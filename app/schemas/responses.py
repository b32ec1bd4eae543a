"""The Responses API on the wire.

Sources: https://platform.openai.com/docs/api-reference/responses, https://www.openresponses.org/specification
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, JsonValue, Tag

from app.schemas.base import Metadata, PositiveInt, Unsupported, WireModel, refused_unless
from app.schemas.chat import Effort
from app.schemas.responses_items import WireItems
from app.schemas.responses_tools import ToolChoice, WireTool, word_or_object
from app.schemas.sampling import SamplingFields
from app.schemas.tools import MAX_TOOLS

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class TextFormat(WireModel):
    """What form the answer must have; a JSON schema has a name."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(WireModel):
    """How the answer is written; `verbosity` is given to the model's chat template."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(WireModel):
    """How the model thinks; with `summary`, what it thinks is shown as a summary too."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(WireModel):
    """What a stream carries besides the answer."""

    include_obfuscation: Annotated[bool | None, refused_unless(False)] = None


class ConversationReference(WireModel):
    """A conversation by its id."""

    id: str


class ResponseRequest(SamplingFields):
    """The body of a request for a response, or for the number of its input tokens."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {"examples": [{"model": "default", "input": "Hello!", "stream": False}]}
    }

    model: str | None = None
    input: str | WireItems | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: (
        Annotated[
            Annotated[str, Tag("a word")] | Annotated[ConversationReference, Tag("an object")],
            Discriminator(word_or_object),
        ]
        | None
    ) = None
    tools: Annotated[list[WireTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: PositiveInt | None = None
    # Of tools that a server runs itself, of which there are none here.
    max_tool_calls: PositiveInt | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    # Ours: seconds after which the answer is ended with an error, where the server's own limit is longer.
    timeout: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    # Said about the request, not asked of the model.
    user: str | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: str | None = None
    # There is one tier, which the response names.
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    # Known, and not supported.
    prompt: Unsupported = None
    moderation: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Annotated[Any, refused_unless("in_memory")] = None
    context_management: Annotated[Any, refused_unless([])] = None


class RetrieveQuery(BaseModel):
    """How a response is to be shown: as it is, or its events after a number as they come."""

    stream: bool = False
    starting_after: Annotated[int, Field(ge=0)] | None = None


class ListQuery(BaseModel):
    """Which part of a list is to be shown."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class InputTokensDetails(BaseModel):
    """Of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    """Of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(BaseModel):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"]


class ResponseBody(BaseModel):
    """A response: its output so far, how it stands, and what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    background: bool
    store: bool
    model: str
    output: list[dict[str, JsonValue]]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    instructions: str | None
    previous_response_id: str | None
    conversation: ConversationReference | None
    tools: list[dict[str, JsonValue]]
    tool_choice: str | dict[str, JsonValue]
    parallel_tool_calls: bool
    max_output_tokens: int | None
    max_tool_calls: int | None
    text: dict[str, JsonValue]
    reasoning: dict[str, JsonValue]
    truncation: Literal["auto", "disabled"]
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    metadata: dict[str, str]
    service_tier: Literal["default"]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None


class ResponseEvent(BaseModel):
    """The `data:` of an event of a streamed response; what else it has depends on its type."""

    type: str
    sequence_number: int


class DeletedResponse(BaseModel):
    """A response was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputTokenCount(BaseModel):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class ItemList(BaseModel):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, JsonValue]]
    first_id: str | None
    last_id: str | None
    has_more: bool
