"""What a request asks for, in no protocol's words: every API translates to these and forgets itself."""

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One turn of a conversation; text only."""

    role: Role
    content: str
    name: str | None = None


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; None leaves the choice to the model's own defaults.

    The presence and frequency penalties count generated tokens (OpenAI's meaning), the repetition penalty the whole
    context (Hugging Face's meaning).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Generate text that continues a conversation."""

    messages: list[Message]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    template_arguments: dict[str, object] = {}


class EmbeddingRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="embed"):
    """Turn each input, a text or its token ids, into a vector; `dimensions` cuts and renormalises it."""

    inputs: list[str | list[int]]
    dimensions: int | None = None


Request = GenerationRequest | EmbeddingRequest
Kind = Literal["lm", "embeddings"]

KIND_OF_REQUEST: dict[type[Request], Kind] = {GenerationRequest: "lm", EmbeddingRequest: "embeddings"}
ENDPOINT_OF_KIND: dict[Kind, str] = {"lm": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
