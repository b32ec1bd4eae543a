"""How the next token is drawn and where an answer ends, on the wire: the fields that the text APIs share.

Sources: https://platform.openai.com/docs/api-reference/chat, the documents of vLLM, llama.cpp and
text-generation-webui.
"""

from typing import Annotated, Any

from pydantic import Field

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

MAX_BREAKERS = 64
MAX_BREAKER_CHARACTERS = 40


class SamplingFields(WireModel):
    """The part of a body that says how the answer is drawn."""

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
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    # vLLM's, and not supported yet.
    use_beam_search: Annotated[bool | None, refused_unless(False)] = None
    stop_token_ids: Annotated[Any, refused_unless([])] = None
    include_stop_str_in_output: Annotated[bool | None, refused_unless(False)] = None
    ignore_eos: Annotated[bool | None, refused_unless(False)] = None
    min_tokens: Annotated[int | None, refused_unless(0)] = None
    truncate_prompt_tokens: Unsupported = None
    allowed_token_ids: Annotated[Any, refused_unless([])] = None
    bad_words: Annotated[Any, refused_unless([])] = None
    prompt_logprobs: Unsupported = None
    return_tokens_as_token_ids: Annotated[bool | None, refused_unless(False)] = None
