"""Samplers from the wire to the neutral request; what is refused is in the end-to-end tests."""

import pytest

from app.api.chat.routes import to_generation
from app.api.media.attachments import Attachments
from app.core.requests import GenerationRequest, Sampling
from app.errors import InvalidRequest
from app.schemas.chat import ChatCompletionRequest


def generation(**fields: object) -> GenerationRequest:
    body = {"messages": [{"role": "user", "content": "Hello!"}], **fields}
    return to_generation(ChatCompletionRequest.model_validate(body), Attachments())


def test_every_number_arrives_under_its_name() -> None:
    asked = {
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.6,
        "frequency_penalty": 0.7,
        "seed": 8,
        "typical_p": 0.9,
        "xtc_probability": 0.11,
        "xtc_threshold": 0.12,
        "dry_multiplier": 1.3,
        "dry_base": 1.4,
        "dry_allowed_length": 15,
        "dry_penalty_last_n": 16,
    }
    assert generation(**asked).sampling == Sampling(**asked)  # type: ignore[arg-type]
    assert generation(repetition_guard=16).repetition_guard == 16
    assert generation() == GenerationRequest(generation().prompt)


@pytest.mark.parametrize(
    ("breakers", "expected"),
    [
        (["\n", ":"], ("\n", ":")),
        ([], ()),
        ('["\\n", ":"]', ("\n", ":")),
        (' "\\n", "\\"", "*" ', ("\n", '"', "*")),
        ("", ()),
        (None, None),
    ],
)
def test_sequence_breakers_as_a_list_and_as_its_json(
    breakers: str | list[str] | None, expected: tuple[str, ...] | None
) -> None:
    assert generation(dry_sequence_breakers=breakers).sampling.dry_sequence_breakers == expected


@pytest.mark.parametrize("breakers", ["\n", '{"a": 1}', "[", "1, 2", "\ud800"])
def test_text_that_is_no_list_of_breakers(breakers: str) -> None:
    with pytest.raises(InvalidRequest, match="list of strings") as refusal:
        generation(dry_sequence_breakers=breakers)
    assert refusal.value.param == "dry_sequence_breakers"
