"""POST /v1/chat/completions on the wire.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from app.schemas.base import Metadata, NaturalInt, PositiveInt, Unsupported, WireModel, refused_unless
from app.schemas.media import InputAudio, UrlField
from app.schemas.output_format import OutputFormatFields
from app.schemas.sampling import SamplingFields
from app.schemas.tools import ToolFields, WireToolCall

MAX_MESSAGES = 10_000
MAX_CHOICES = 32

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ContentPart(WireModel):
    """A piece of a message; the translation refuses types that it does not know by their name."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: UrlField | None = None
    # As vLLM has them.
    video_url: UrlField | None = None
    audio_url: UrlField | None = None
    # As mlx-vlm's server has it.
    video: UrlField | None = None
    input_audio: InputAudio | None = None


class ChatMessage(WireModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = None
    # What the model thought, under the names that servers give it.
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Unsupported = None
    audio: Unsupported = None


class StreamOptions(WireModel):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, refused_unless(False)] = None


class ReasoningOptions(WireModel):
    """How the model thinks before it answers, as OpenRouter's users say it."""

    effort: Effort | None = None
    max_tokens: PositiveInt | None = None
    enabled: bool | None = None
    exclude: Annotated[bool | None, refused_unless(False)] = None


class ChatCompletionRequest(SamplingFields, OutputFormatFields, ToolFields):
    """The body of a chat completion request."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {
            "examples": [{"model": "default", "messages": [{"role": "user", "content": "Hello!"}], "stream": False}]
        }
    }

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    # Where the prompt ends: before an answer, after the last message, or within that message's text, which goes on.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # How the model thinks: OpenAI's field, OpenRouter's, and vLLM's for the most tokens of it.
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    thinking_token_budget: NaturalInt | None = None
    include_reasoning: Annotated[bool | None, refused_unless(True)] = None
    # Said about the request, not asked of the model.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None
    service_tier: Annotated[str | None, refused_unless("auto", "default")] = None
    # Ours: seconds after which the answer is ended with an error, where the server's own limit is longer.
    timeout: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    # Known, and not supported yet.
    best_of: Annotated[int | None, refused_unless(1)] = None
    echo: Annotated[bool | None, refused_unless(False)] = None
    chat_template: Unsupported = None
    documents: Annotated[Any, refused_unless([])] = None
    mm_processor_kwargs: Unsupported = None
    functions: Annotated[Any, refused_unless([])] = None
    function_call: Annotated[Any, refused_unless("none", "auto")] = None
    modalities: Annotated[Any, refused_unless(["text"])] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None
    verbosity: Annotated[str | None, refused_unless("medium")] = None


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """Of the completion's tokens."""

    reasoning_tokens: int


class ChatUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class FunctionCall(BaseModel):
    """What to call; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class AnswerToolCall(BaseModel):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AnswerMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerToolCall] | None = None


class TopLogprob(BaseModel):
    """A token that could have come; `bytes` are its UTF-8 bytes, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    """A generated token, and the likeliest ones for its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The tokens of an answer, or of a piece of it; their bytes join to its text."""

    content: list[TokenLogprobs] | None
    refusal: None = None


class Choice(BaseModel):
    """One answer, and why it ended."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """A non-streaming reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class FunctionDelta(BaseModel):
    """A piece of a call's arguments, the first with the name."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """A piece of the `index`-th call, the first with its id."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(BaseModel):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatCompletionChunk(BaseModel):
    """One `data:` line of a streamed reply."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
