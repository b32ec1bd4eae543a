"""Bodies of text completions to neutral requests; what the schema alone refuses is in the end-to-end tests."""

import json

import pytest

from app.api.completions.routes import to_generations
from app.core.conversation import RawPrompt
from app.core.output_format import Regex
from app.core.requests import GenerationRequest, Sampling
from app.errors import InvalidRequest
from app.schemas.completions import CompletionRequest


def generations(**fields: object) -> tuple[GenerationRequest, ...]:
    return to_generations(CompletionRequest.model_validate_json(json.dumps({"prompt": "a"} | fields)))


def generation(**fields: object) -> GenerationRequest:
    (only,) = generations(**fields)
    return only


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_form_of_prompt(prompt: object, texts: list[str | list[int]]) -> None:
    assert [one.prompt for one in generations(prompt=prompt)] == [RawPrompt(text) for text in texts]


def test_what_is_not_said_is_left_to_the_model_but_for_sixteen_tokens() -> None:
    assert generation() == GenerationRequest(RawPrompt("a"), max_tokens=16)
    assert generation(suffix="", n=1, best_of=1, echo=False, add_special_tokens=True) == generation()


def test_every_field_arrives() -> None:
    asked = generation(
        suffix="z",
        max_tokens=5,
        n=2,
        best_of=3,
        logprobs=4,
        add_special_tokens=False,
        temperature=0.5,
        top_k=7,
        seed=9,
        stop="x",
        logit_bias={"5": -1},
        repetition_guard=8,
        prompt_cache_key="key",
        guided_regex="a+",
    )
    assert asked == GenerationRequest(
        prompt=RawPrompt("a", "z", adds_special_tokens=False),
        sampling=Sampling(temperature=0.5, top_k=7, seed=9, logit_bias={5: -1.0}),
        max_tokens=5,
        stop=("x",),
        output_format=Regex("a+"),
        num_choices=3,
        top_logprobs=4,
        cache_namespace="key",
        repetition_guard=8,
    )


def test_the_prompt_alone() -> None:
    asked = generation(echo=True, max_tokens=0, logprobs=1)
    assert asked == GenerationRequest(RawPrompt("a", is_echoed=True), max_tokens=0, top_logprobs=1)


def test_the_best_are_found_by_log_probabilities_nobody_asked_for() -> None:
    assert generation(best_of=3).top_logprobs == 0
    assert generation(best_of=3, n=3).top_logprobs is None
    assert generation(best_of=3, logprobs=2).top_logprobs == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3, "stream": True}, "best_of"),
        ({"suffix": "z", "echo": True}, "suffix"),
        ({"suffix": "z", "prompt": [1, 2]}, "suffix"),
        ({"stop": ["a", ""]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ],
)
def test_what_does_not_go_together(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        generations(**fields)
    assert refusal.value.param == param


def test_a_stream_of_as_many_as_are_generated() -> None:
    assert generation(n=2, best_of=2, stream=True).num_choices == 2
