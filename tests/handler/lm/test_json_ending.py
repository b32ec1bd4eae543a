"""JSON that comes to its end before its tokens are used up, however little the model cares."""

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.core.output_format import JsonObject, OutputFormat, Regex
from app.handler.lm.guides.grammar import Grammar
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import Model, schema_format, tiny
from tests.fixtures.json_schemas import SCHEMAS, record

UNBOUNDED: dict[str, dict[str, Any]] = {
    "numbers": {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "number"},
            "c": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    },
    "text": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "list": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    "map": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}}},
}


@pytest.fixture(scope="module", params=["byte-level", "spm"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(tiny_tokenizers.build(request.param), vocabulary_size=1061)


def careless(model: Model, asked: OutputFormat, max_tokens: int, seed: int) -> tuple[str, bool]:
    """A text of tokens drawn from all that are allowed, and whether it ended by itself within `max_tokens`."""
    grammar = model.compiler.compile(asked).start(max_tokens)
    draw = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        allowed = model.allowed(grammar).tolist()
        going_on = [token for token in allowed if token not in model.eos_tokens]
        if not going_on:
            return model.text(tokens), True
        tokens.append(draw.choice(going_on))
        grammar.advance(tokens[-1])
    return model.text(tokens), False


@pytest.mark.parametrize("name", [*SCHEMAS, *UNBOUNDED])
def test_every_answer_of_a_schema_is_whole(model: Model, name: str) -> None:
    schema = (SCHEMAS | UNBOUNDED)[name]
    for seed in range(6):
        text, has_ended = careless(model, schema_format(schema), 400, seed)
        assert has_ended, text
        assert Draft202012Validator(schema).is_valid(json.loads(text)), text


def test_long_numbers_leave_room_for_what_follows(model: Model) -> None:
    for seed in range(40):
        text, has_ended = careless(model, schema_format(UNBOUNDED["numbers"]), 60, seed)
        assert has_ended, text
        assert set(json.loads(text)) == {"a", "b", "c"}


def test_keys_that_must_follow_are_waited_for(model: Model) -> None:
    schema = record(**{f"key{number}": {"type": "string"} for number in range(12)})
    for seed in range(10):
        text, has_ended = careless(model, schema_format(schema), 160, seed)
        assert has_ended, text
        assert len(json.loads(text)) == 12


def test_every_object_is_whole(model: Model) -> None:
    for seed in range(20):
        text, has_ended = careless(model, JsonObject(), 80, seed)
        assert has_ended, text
        assert isinstance(json.loads(text), dict)


def test_nothing_is_hurried_while_there_is_time(model: Model) -> None:
    """With many tokens left, what is allowed is what the schema allows."""
    asked = schema_format(UNBOUNDED["text"])
    free, bounded = model.compiler.compile(asked), model.compiler.compile(asked).start(1000)
    for grammar in (free, bounded):
        model.feed(grammar, '{"text":"some')
    assert model.allowed(free).tolist() == model.allowed(bounded).tolist()


def test_a_copy_goes_on_counting(model: Model) -> None:
    grammar = model.compiler.compile(schema_format(UNBOUNDED["text"])).start(60)
    model.feed(grammar, '{"text":"')
    taken = 0
    while any(text == "x" for text in allowed_texts(model, grammar)):
        model.feed(grammar, "x")
        taken += 1
        assert taken < 60
    copied = grammar.copy()
    assert allowed_texts(model, copied) == allowed_texts(model, grammar)
    assert all(text.startswith('"') for text in allowed_texts(model, copied))


def allowed_texts(model: Model, grammar: Grammar) -> list[str]:
    return [model.text([token]) for token in model.allowed(grammar).tolist()]


def test_other_formats_have_no_brackets_to_close(model: Model) -> None:
    text, has_ended = careless(model, Regex("[a-z]+"), 30, 1)
    assert not has_ended
    assert text
