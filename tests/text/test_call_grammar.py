"""What a model held to a family's grammar writes is read back as calls that keep to their schemas."""

import json
import re
from contextlib import nullcontext
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from tokenizers import AddedToken

from app.core.output_format import JsonSchema
from app.handler.lm.guides.grammar_compiler import CallFormat
from app.text.call_grammar import call_grammar, lone_open
from app.text.families import FAMILIES
from app.text.family import Family
from app.text.markup import markup_of
from app.text.offered import OfferedTool
from app.text.reader import MarkupReader
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import Model, tiny
from tests.fixtures.json_schemas import SCHEMAS, array, record
from tests.text.corpus_adapter import fold, read

TOOLS = (
    OfferedTool("ping", {"type": "object", "properties": {}}),
    OfferedTool("anything", {"type": "object"}),
    OfferedTool(
        "book_trip",
        {
            "type": "object",
            "properties": {
                "who": record(["name"], name={"type": "string", "maxLength": 9}, age={"type": "number"}),
                "tags": array({"type": "string", "maxLength": 5}, maxItems=2),
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "note": {"type": "string", "maxLength": 20},
            },
            "required": ["who", "days", "note"],
        },
    ),
)
# The arguments of a function are an object; a text without bounds may not end where its model draws lots.
OBJECTS = {name: schema for name, schema in SCHEMAS.items() if schema.get("type", "object") == "object"} | {
    "lengths": record(a={"type": "string", "minLength": 3, "maxLength": 5}, b={"type": "string", "maxLength": 0})
}
# The ways of writing calls, each by one family that has it.
WAYS = {family.regions[0]: family for family in list(FAMILIES.values())[::-1]}
NOT_JSON = ("qwen3-coder", "glm4.5", "deepseek-v3.2", "kimi-k3", "minicpm5", "minimax-m3", "gemma4", "lfm2")


def family_model(family: Family, *, has_tokens: bool) -> Model:
    """With its markers as tokens of their own, where they may be that."""
    backend = tiny_tokenizers.build("byte-level")
    if has_tokens:
        markup = markup_of(family, has_tools=True)
        texts = {*markup.markers.texts, *(end for region in family.regions for end in markup.ends_of(region))}
        names = sorted(text for text in texts if not set(text) & set(' \n"'))
        backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    return tiny(backend)


def asked(model: Model, family: Family, tools: tuple[OfferedTool, ...], **how: bool) -> Any:
    grammar = call_grammar(family, tools, tokens=model.compiler.vocabulary.added, **how)
    schemas = tuple(JsonSchema(one.schema, one.function) for one in grammar.schemas)
    return CallFormat(grammar.lark, schemas, grammar.is_json)


def written(model: Model, family: Family, tools: tuple[OfferedTool, ...], seed: int, **how: bool) -> str:
    return model.generate(asked(model, family, tools, **how), seed)


def calls_in(text: str, family: Family, tools: tuple[OfferedTool, ...], special: dict[str, int]) -> list[Any]:
    """The calls in a text in which every marker that is a token is meant as one; there is nothing else in it."""
    tokens = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    reader = MarkupReader(family, tools, starts_in_reasoning=False, special=frozenset(special))
    got = fold(read(reader, re.split(f"({tokens})", text), frozenset(special)))
    assert not got["content"], text
    assert not got["reasoning"], text
    assert not any(call["incomplete"] for call in got["tool_calls"]), text
    return got["tool_calls"]


def check(text: str, family: Family, tools: tuple[OfferedTool, ...], special: dict[str, int]) -> int:
    """How many calls there are, each of which keeps to its schema."""
    calls = calls_in(text, family, tools, special)
    for call in calls:
        schema: Any = next(tool.parameters for tool in tools if tool.name == call["name"])
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(call["arguments"]))
    return len(calls)


@pytest.mark.parametrize("has_tokens", [False, True])
@pytest.mark.parametrize("family", WAYS.values(), ids=lambda family: family.name)
def test_every_familys_own_way_is_read_back(family: Family, *, has_tokens: bool) -> None:
    model = family_model(family, has_tokens=has_tokens)
    special = model.compiler.vocabulary.added
    assert check(written(model, family, TOOLS, 0, is_parallel=False), family, TOOLS, special) == 1
    assert check(written(model, family, TOOLS, 1, is_parallel=True), family, TOOLS, special) >= 1
    if opening := lone_open(family):
        text = written(model, family, TOOLS, 2, is_parallel=False, is_open=True)
        assert check(opening + text, family, TOOLS, special) == 1


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("family", NOT_JSON)
def test_arguments_keep_to_their_schema_where_they_are_no_json(
    family: str, name: str, models: dict[str, Model]
) -> None:
    tools = (OfferedTool("write", OBJECTS[name]),)
    known, model = FAMILIES[family], models.setdefault(family, family_model(FAMILIES[family], has_tokens=False))
    text = written(model, known, tools, 0, is_parallel=False)
    assert check(text, known, tools, model.compiler.vocabulary.added) == 1


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {}


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("a [1\n</parameter>\n</function>", True),
        ("[1,2]\n</parameter>\n</function>", True),
        # It would be read as a list, which it is not one of.
        ("[1.5]", False),
        ("[a", False),
        (' ["a', False),
        # It would end there.
        ("a\n</parameter>\n<", True),
        ("a\n</parameter>\nb", False),
        ("a\n</parameter> b", False),
        ("a</parameter>", False),
        ("a</function> b", True),
        ("a</function>\n </tool_call>", False),
    ],
)
def test_no_text_reads_like_anything_else(value: str, *, is_allowed: bool) -> None:
    schema = record(x={"anyOf": [{"type": "string"}, array({"type": "integer"})]})
    family, tools = FAMILIES["qwen3-coder"], (OfferedTool("write", schema),)
    model = family_model(family, has_tokens=False)
    grammar = model.compiler.compile(asked(model, family, tools, is_parallel=False))
    model.feed(grammar, "<tool_call>\n<function=write>\n<parameter=x>\n")
    with nullcontext() if is_allowed else pytest.raises(ValueError, match="max"):
        model.feed(grammar, value)


def test_calls_open_with_the_text_that_is_told() -> None:
    assert {name: lone_open(FAMILIES[name]) for name in ("qwen3", "kimi-k2", "mistral-v13", "muse-glimmer")} == {
        "qwen3": "<tool_call>",
        "kimi-k2": "<|tool_calls_section_begin|>",
        "mistral-v13": "[TOOL_CALLS]",
        "muse-glimmer": "<atem:function_calls>",
    }
    assert lone_open(FAMILIES["llama3-json"]) is None
    assert lone_open(FAMILIES["functionary-v3.2"]) is None


def test_only_one_call_where_no_more_are_wanted() -> None:
    family, tools = FAMILIES["qwen3"], (OfferedTool("ping", record()),)
    model = family_model(family, has_tokens=False)
    texts = [written(model, family, tools, seed, is_parallel=True) for seed in range(12)]
    assert max(text.count("ping") for text in texts) > 1
    assert (
        written(model, family, tools, 0, is_parallel=False)
        == '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    )
