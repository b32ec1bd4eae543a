"""Calls with plain texts in them come to their end before their tokens are used up, however little the model cares."""

import json
import random
import re

import pytest

from app.core.output_format import JsonSchema
from app.handler.lm.guides.grammar_compiler import CallFormat
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import Model, tiny

LIST = JsonSchema(json.dumps({"type": "array", "items": {"type": "string"}}))
PLAIN = 'TEXT: (/(?s:.*)/ & ~/(?s:.*)<\\/p>(?s:.*)/) "\\n</p>"'
WRITTEN = r"<call>\n<p>\n(?s:.*)\n</p>\n<p>\n(?s:.*)\n</p>\n</call>"


@pytest.fixture(scope="module", params=["byte-level", "spm"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(tiny_tokenizers.build(request.param), vocabulary_size=1061)


def careless(model: Model, asked: CallFormat, max_tokens: int, seed: int) -> tuple[str, bool]:
    """A text of tokens drawn from all that are allowed, and whether it ended by itself within `max_tokens`."""
    grammar, draw = model.compiler.compile(asked).start(max_tokens), random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        going_on = [token for token in model.allowed(grammar).tolist() if token not in model.eos_tokens]
        if not going_on:
            return model.text(tokens), True
        tokens.append(draw.choice(going_on))
        if draw.random() < 0.1:
            grammar = grammar.copy()
        grammar.advance(tokens[-1])
    return model.text(tokens), False


def test_texts_between_marks(model: Model) -> None:
    asked = CallFormat(f'start: "<call>" ("\\n<p>\\n" TEXT)~2 "\\n</call>"\n{PLAIN}', is_json=False, closes=("\n</p>",))
    for seed in range(10):
        text, has_ended = careless(model, asked, 150, seed)
        assert has_ended, text
        assert re.fullmatch(WRITTEN, text), text
        assert len(text) > 60


def test_more_calls_begin_only_while_there_is_time(model: Model) -> None:
    asked = CallFormat(
        f'start: call+\ncall: "<call>\\n<p>\\n" TEXT "</call>"\n{PLAIN}', is_json=False, closes=("\n</p>",)
    )
    for seed in range(10):
        text, has_ended = careless(model, asked, 150, seed)
        assert has_ended, text
        assert re.fullmatch(r"(<call>\n<p>\n(?s:.*)\n</p></call>)+", text), text


def test_a_mark_that_is_a_token(model: Model) -> None:
    token = model.compiler.vocabulary.added["</tool_call>"]
    asked = CallFormat(
        f'start: "<p>" TEXT <[{token}]> "." \nTEXT: /(?s:.*)/', is_json=False, closes=("</tool_call>", "other")
    )
    for seed in range(10):
        text, has_ended = careless(model, asked, 60, seed)
        assert has_ended, text
        assert text.endswith("</tool_call>.")


def test_json_between_marks(model: Model) -> None:
    """In a JSON text, a mark is text; in it are quotes that end nothing."""
    asked = CallFormat('start: "<p>" schema_0 "</p>"', (LIST,), is_json=False, closes=("</p>",))
    for seed in range(30):
        text, has_ended = careless(model, asked, 100, seed)
        assert has_ended, text
        assert isinstance(json.loads(text.removeprefix("<p>").removesuffix("</p>")), list)


def test_texts_in_quotes(model: Model) -> None:
    asked = CallFormat('start: "[f(a=" TEXT ", b=" TEXT ")]"\nTEXT: /\'[^\'\\n]*\'/', is_json=False, closes=("'",))
    for seed in range(10):
        text, has_ended = careless(model, asked, 80, seed)
        assert has_ended, text
        assert re.fullmatch(r"\[f\(a='[^'\n]*', b='[^'\n]*'\)\]", text), text


def test_nothing_is_hurried_without_marks(model: Model) -> None:
    asked = CallFormat(f'start: "<p>\\n" TEXT\n{PLAIN}', is_json=False)
    assert not careless(model, asked, 60, 1)[1]
