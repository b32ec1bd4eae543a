"""POST /v1/chat/completions on the wire.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from app.schemas.base import (
    NaturalInt,
    Penalty,
    PositiveInt,
    Probability,
    RepetitionPenalty,
    Seed,
    Temperature,
    TopP,
    Unsupported,
    WireModel,
    refused_unless,
)

MAX_MESSAGES = 10_000
MAX_CHOICES = 32
MAX_BREAKERS = 64
MAX_BREAKER_CHARACTERS = 40

# A JSON schema, or the same as JSON text.
GuidedJson = dict[str, JsonValue] | str


class TextPart(WireModel):
    """A piece of a message; other types than text are refused by the translation, which names them."""

    type: str
    text: str | None = None


class ChatMessage(WireModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: Annotated[Any, refused_unless([])] = None
    function_call: Unsupported = None
    audio: Unsupported = None


class StreamOptions(WireModel):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, refused_unless(False)] = None


class JsonSchemaFormat(WireModel):
    """A JSON schema with a name, as OpenAI takes it."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(WireModel):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(WireModel):
    """vLLM's way of saying what form the answer must have; JSON has no white space either way.

    Source: https://docs.vllm.ai/en/latest/features/structured_outputs.html
    """

    json_: Annotated[GuidedJson | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Unsupported = None
    whitespace_pattern: Unsupported = None
    disable_additional_properties: Annotated[bool | None, refused_unless(False)] = None


class ChatCompletionRequest(WireModel):
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
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: NaturalInt | None = None
    min_p: Probability | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = None
    seed: Seed | None = None
    # What users of llama.cpp, text-generation-webui and mlx_lm know.
    typical_p: TopP | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False)] | None = None
    dry_allowed_length: PositiveInt | None = None
    dry_sequence_breakers: list[str] | str | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    # Ours: once the same 1 to 64 tokens have come so many times in a row, the answer ends, for "length".
    repetition_guard: Annotated[int, Field(ge=2, le=1000)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    # What form the answer must have: OpenAI's field, then vLLM's newer and older ones.
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: GuidedJson | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    # Said about the request, not asked of the model.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    service_tier: Annotated[str | None, refused_unless("auto", "default")] = None
    # Known, and not supported yet.
    tools: Annotated[Any, refused_unless([])] = None
    tool_choice: Annotated[Any, refused_unless("none", "auto")] = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[Any, refused_unless([])] = None
    function_call: Annotated[Any, refused_unless("none", "auto")] = None
    reasoning_effort: Unsupported = None
    store: Annotated[bool | None, refused_unless(False)] = None
    modalities: Annotated[Any, refused_unless(["text"])] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None
    verbosity: Annotated[str | None, refused_unless("medium")] = None
    timeout: Unsupported = None


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


class AnswerMessage(BaseModel):
    """The model's answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None


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


class Delta(BaseModel):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


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
