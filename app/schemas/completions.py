"""POST /v1/completions on the wire.

Sources: https://platform.openai.com/docs/api-reference/completions, and vLLM's documents for what it adds.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag

from app.schemas.base import NaturalInt, Unsupported, WireModel
from app.schemas.chat import MAX_CHOICES, ChatUsage, StreamOptions
from app.schemas.inputs import INPUT_FORM, Tokens
from app.schemas.output_format import OutputFormatFields
from app.schemas.sampling import SamplingFields

MAX_PROMPTS = 256
DEFAULT_MAX_TOKENS = 16

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
Prompt = Annotated[
    Annotated[str, Tag("a text")]
    | Annotated[Texts, Tag("some texts")]
    | Annotated[Tokens, Tag("some tokens")]
    | Annotated[TokenLists, Tag("token lists")],
    INPUT_FORM,
]


class CompletionRequest(SamplingFields, OutputFormatFields):
    """The body of a completion request."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {
            "examples": [{"model": "default", "prompt": "Once upon a time", "max_tokens": DEFAULT_MAX_TOKENS}]
        }
    }

    model: str | None = None
    prompt: Prompt
    suffix: str | None = None
    max_tokens: NaturalInt | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's: whether a text gets the special tokens that the tokenizer begins a text with.
    add_special_tokens: bool | None = None
    # Said about the request, not asked of the model.
    user: str | None = None
    prompt_cache_key: str | None = None
    # Ours: seconds after which the answer is ended with an error, where the server's own limit is longer.
    timeout: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    # vLLM's, and not supported yet.
    prompt_embeds: Unsupported = None


class CompletionLogprobs(BaseModel):
    r"""The tokens of a text or of a piece of it, in four lists of one length.

    `text_offset` is where in the whole text a token begins, in characters. Nothing predicts the first token of an
    echoed prompt, which has a null. A token that is no text by itself is called by its bytes: "bytes:\xe2\x82".
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """A text that continues a prompt, and why it ended; the n of the first prompt come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """A non-streaming reply."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: ChatUsage


class CompletionChunkChoice(BaseModel):
    """One text's part of a chunk."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionChunk(BaseModel):
    """One `data:` line of a streamed reply."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: ChatUsage | None = None
