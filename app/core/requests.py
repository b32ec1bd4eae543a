"""What a request asks for, in no protocol's words: every API translates to these and forgets itself."""

from typing import Literal

import msgspec

from app.core.conversation import Conversation, RawPrompt
from app.core.output_format import OutputFormat


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; None leaves the choice to the model's own defaults.

    The presence and frequency penalties count generated tokens (OpenAI's meaning), the repetition penalty the whole
    context (Hugging Face's meaning). DRY and XTC are llama.cpp's and text-generation-webui's.
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
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    dry_penalty_last_n: int | None = None


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Generate text that continues a conversation or a text.

    `num_choices` answers share one prefill. `top_logprobs` asks for the log-probabilities of the generated tokens and
    of so many candidates beside each. Prompts of one `cache_namespace` share their prefixes, with no others.
    With `max_tokens` 0 there is no answer, only what is said of the prompt. An answer that says the same few tokens
    `repetition_guard` times in a row ends there.
    """

    prompt: Conversation | RawPrompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    output_format: OutputFormat | None = None
    num_choices: int = 1
    top_logprobs: int | None = None
    cache_namespace: str = ""
    repetition_guard: int | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="embed"):
    """Turn each input, a text or its token ids, into a vector; `dimensions` cuts and renormalises it."""

    inputs: list[str | list[int]]
    dimensions: int | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenize"):
    """Say which tokens a prompt has, however many; with `has_pieces` also how the vocabulary spells each."""

    prompt: Conversation | RawPrompt
    has_pieces: bool = False


class DetokenizeRequest(msgspec.Struct, frozen=True, tag="detokenize"):
    """Say which text some tokens are."""

    tokens: list[int]


# Answered from the tokenizer alone, in a line of their own: they wait for no generation.
TokenRequest = TokenizeRequest | DetokenizeRequest
Request = GenerationRequest | EmbeddingRequest | TokenRequest
Kind = Literal["lm", "embeddings"]

KIND_OF_REQUEST: dict[type[Request], Kind] = {
    GenerationRequest: "lm",
    EmbeddingRequest: "embeddings",
    TokenizeRequest: "lm",
    DetokenizeRequest: "lm",
}
ENDPOINT_OF_KIND: dict[Kind, str] = {"lm": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
