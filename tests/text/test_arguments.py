import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.conversation import Tool
from app.text.arguments import ValueWriter, value_json
from app.text.offered import OfferedTool, Schema, declared_types, read_tools

ROOT: Schema = {
    "$defs": {"point": {"type": "object"}, "loop": {"$ref": "#/$defs/loop"}, "a/b": {"type": "array"}},
    "properties": {"known": {"type": "integer"}},
}


def typed(text: str, schema: Schema) -> Any:
    return json.loads(value_json(text, declared_types(schema, ROOT)))


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({}, set[str]()),
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, {"string", "array"}),
        ({"oneOf": [{"type": "string"}, {}]}, set[str]()),
        ({"allOf": [{"description": "x"}, {"$ref": "#/$defs/point"}]}, {"object"}),
        ({"$ref": "#/$defs/a~1b"}, {"array"}),
        ({"$ref": "#/$defs/loop"}, set[str]()),
        ({"$ref": "#/$defs/none"}, set[str]()),
        ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
        ({"const": 1.5}, {"number"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
    ],
)
def test_types_are_those_that_a_schema_allows(schema: Schema, types: set[str]) -> None:
    assert declared_types(schema, ROOT) == types


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("01234", {"type": "string"}, "01234"),
        (" [1] ", {"type": "string"}, " [1] "),
        ("null", {"type": "string"}, "null"),
        ("null", {"type": ["string", "null"]}, None),
        ("None", {"type": ["string", "null"]}, None),
        ("nullable", {"type": ["string", "null"]}, "nullable"),
        (" 5\n", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5),
        ("5", {"type": "number"}, 5),
        ("three", {"type": "integer"}, "three"),
        ('"7"', {"type": "integer"}, 7),
        ("True", {"type": "boolean"}, True),
        ("FALSE", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("{'a': None}", {"type": "object"}, {"a": None}),
        ('["x", "y"]', {"type": "array"}, ["x", "y"]),
        ("not a list", {"type": "array"}, "not a list"),
        ("5", {"type": ["string", "integer"]}, "5"),
        ("[5]", {"type": ["string", "array"]}, [5]),
        ("true", {"type": ["string", "boolean"]}, True),
        ("5", {}, 5),
        ("five", {}, "five"),
        ("", {"type": "integer"}, ""),
    ],
)
def test_a_text_becomes_what_the_schema_wants(text: str, schema: Schema, value: Any) -> None:
    got = typed(text, schema)
    assert (got, type(got)) == (value, type(value))


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    text=st.one_of(st.text(max_size=20), st.text("nulNoe \n[]{}\"'1.-tr", max_size=8)),
    types=st.frozensets(st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null"])),
    size=st.integers(1, 5),
)
def test_any_text_becomes_json_however_it_is_cut(text: str, types: frozenset[str], size: int) -> None:
    whole = value_json(text, types)
    value = json.loads(whole)
    if types == frozenset({"string"}):
        assert value == text
    parts: list[str] = []
    writer = ValueWriter(parts.append, types)
    for start in range(0, len(text), size):
        writer.add(text[start : start + size])
    writer.finish()
    assert "".join(parts) == whole


def test_texts_are_written_before_they_are_whole() -> None:
    for types, start in (("string",), '"nu'), (("string", "null"), ""):
        parts: list[str] = []
        writer = ValueWriter(parts.append, frozenset(types))
        writer.add("nu")
        assert "".join(parts) == start
        writer.add("mber")
        assert "".join(parts) == '"number'


def test_tools_are_read_whatever_their_schemas_are() -> None:
    given = [
        '{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"boolean"}}',
        "[1]",
        "{",
        "[" * 9999,
    ]
    tools = read_tools(Tool(f"t{place}", parameters=text) for place, text in enumerate(given))
    assert [tool.schema_of("a") for tool in tools] == [{"type": "integer"}, None, None, None]
    assert tools[0].schema_of("b") == {"type": "boolean"}


def test_arguments_are_found_in_what_a_schema_combines() -> None:
    parameters: Schema = {
        "$defs": {"base": {"properties": {"a": {"type": "integer"}}}},
        "allOf": [{"$ref": "#/$defs/base"}, {"anyOf": [{"properties": {"b": {"type": "array"}}}]}],
    }
    tool = OfferedTool("t", parameters)
    assert [tool.schema_of(name) for name in "abc"] == [{"type": "integer"}, {"type": "array"}, None]
