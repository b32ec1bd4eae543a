"""How the next token is drawn and where an answer ends, from the wire to the neutral request."""

import msgspec

from app.core.requests import Sampling
from app.errors import InvalidRequest
from app.schemas.sampling import MAX_BREAKER_CHARACTERS, MAX_BREAKERS, SamplingFields


def to_sampling(body: SamplingFields) -> Sampling:
    """Translate the fields that say how a token is drawn. Errors: InvalidRequest."""
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_logit_bias(body.logit_bias),
        seed=body.seed,
        typical_p=body.typical_p,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        dry_multiplier=body.dry_multiplier,
        dry_base=body.dry_base,
        dry_allowed_length=body.dry_allowed_length,
        dry_sequence_breakers=_dry_breakers(body.dry_sequence_breakers),
        dry_penalty_last_n=body.dry_penalty_last_n,
    )


def to_stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings of a body. Errors: InvalidRequest."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in stops:
        raise InvalidRequest("A stop string must not be empty.", param="stop")
    return stops


def _dry_breakers(breakers: str | list[str] | None) -> tuple[str, ...] | None:
    """A list as llama.cpp takes it, or its JSON, with or without brackets, as text-generation-webui does."""
    if isinstance(breakers, str):
        text = breakers.strip()
        try:
            # A line break by itself is meant as a breaker, and is no JSON.
            if breakers and not text:
                raise ValueError
            breakers = msgspec.json.decode(text if text.startswith("[") else f"[{text}]", type=list[str])
        except (msgspec.DecodeError, ValueError):
            raise InvalidRequest(
                "dry_sequence_breakers must be a list of strings.", param="dry_sequence_breakers"
            ) from None
    if breakers is None:
        return None
    if "" in breakers or len(breakers) > MAX_BREAKERS or max(map(len, breakers), default=0) > MAX_BREAKER_CHARACTERS:
        raise InvalidRequest(
            f"dry_sequence_breakers takes up to {MAX_BREAKERS} strings of 1 to {MAX_BREAKER_CHARACTERS} characters.",
            param="dry_sequence_breakers",
        )
    return tuple(breakers)


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    try:
        by_token = {int(token): value for token, value in bias.items()}
    except ValueError:
        raise InvalidRequest("The keys of logit_bias must be token ids.", param="logit_bias") from None
    # No vocabulary is as large as what a frame's integers hold; what is smaller is for the model to judge.
    if unknown := [token for token in by_token if not 0 <= token < 2**31]:
        raise InvalidRequest(f"logit_bias names token {unknown[0]}, which no model has.", param="logit_bias")
    return by_token
