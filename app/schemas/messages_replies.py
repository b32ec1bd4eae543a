"""What Anthropic's routes answer, on the wire.

Sources: https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/api/models
"""

from typing import Literal

from pydantic import BaseModel, JsonValue


class AnthropicErrorDetails(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """The body of every reply of these routes with a status of 400 or above, and the data of an `error` event."""

    type: Literal["error"] = "error"
    error: AnthropicErrorDetails
    request_id: str


class TextAnswer(BaseModel):
    """A stretch of the answer."""

    type: Literal["text"]
    text: str


class ThinkingAnswer(BaseModel):
    """What the model thought; `signature` comes back with it in the next request."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseAnswer(BaseModel):
    """A call that the client is to make."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class ThinkingTokens(BaseModel):
    """Of the output's tokens."""

    thinking_tokens: int


class MessageUsage(BaseModel):
    """Token counts; the prompt's tokens are the sum of the first three."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens
    service_tier: Literal["standard"]


class CacheMissReason(BaseModel):
    """Nothing is compared here."""

    type: Literal["unavailable"]


class DiagnosticsAnswer(BaseModel):
    """Why the prompt's prefix was not in the cache."""

    cache_miss_reason: CacheMissReason


class MessageReply(BaseModel):
    """A non-streaming reply."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextAnswer | ThinkingAnswer | ToolUseAnswer]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage
    diagnostics: DiagnosticsAnswer | None = None


class TokenCount(BaseModel):
    """How many tokens a prompt has."""

    input_tokens: int


class AnthropicModel(BaseModel):
    """A served model; its limits are known once it is loaded."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None
    max_tokens: int | None


class AnthropicModelPage(BaseModel):
    """Some of the served models, in order."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None
