"""Formats that cannot be kept to: each is told what is wrong with it, and takes neither time nor the process."""

from typing import Any

import pytest

from app.core.output_format import JsonSchema, Lark, Regex
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import refused, schema_format, tiny
from tests.fixtures.json_schemas import record


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return tiny(tiny_tokenizers.build("byte-level"), vocabulary_size=1061).compiler


@pytest.mark.parametrize(
    ("part", "keyword", "says"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "Unimplemented"),
        ({"not": {"type": "string"}}, "not", "Unimplemented"),
        ({"if": {"type": "string"}, "else": {"type": "null"}}, "if", "Unimplemented"),
        ({"type": "string", "pattern": "(ab"}, "pattern", "unclosed group"),
        ({"type": "string", "pattern": "(?=ab)c"}, "pattern", "look-ahead"),
        ({"type": "string", "format": "klingon"}, "format", "klingon"),
        ({"type": "strin"}, "type", "strin"),
        ({"type": 5}, "type", "must be a string"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum", "greater than maximum"),
        ({"enum": []}, "enum", "Unsatisfiable"),
        ({"type": "object", "properties": None}, "properties", "must be an object"),
        ({"type": "object", "required": [1]}, "required", "got 1"),
        ({"$ref": "#/$defs/nothing"}, "$ref", "nothing"),
        ({"$ref": "https://example.com/schema"}, "$ref", "example.com"),
        ({"type": "array", "minItems": -1}, "minItems", "-1"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "not supported"),
        ({"oneOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "string"}]}, "oneOf", "not supported"),
        ({"oneOf": [record([], k={"const": "a"}), record([], k={"const": "b"})]}, "oneOf", "not supported"),
        ({"type": "number", "multipleOf": 0}, "multipleOf", "multiple"),
    ],
)
def test_a_schema_is_told_where_it_is_wrong(
    compiler: GrammarCompiler, part: dict[str, Any], keyword: str, says: str
) -> None:
    alone = refused(compiler, schema_format(part))
    assert alone.startswith(f"Invalid schema: '{keyword}': ")
    assert says in alone
    inside = {"$defs": {"good": {}, "part": record(b={}, c=part)}, **record(a={"$ref": "#/$defs/part"})}
    message = refused(compiler, schema_format(inside, "thing"))
    assert message.startswith(f"Invalid schema for response_format 'thing': '{keyword}' in $defs.part.properties.c: ")


@pytest.mark.parametrize("target", ["#", "#/$defs/a"])
def test_a_schema_without_an_end_has_no_text(compiler: GrammarCompiler, target: str) -> None:
    assert "no text" in refused(compiler, schema_format({"$ref": target, "$defs": {"a": {"$ref": "#"}}}))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "multipleOf": 99_999_989}, "multipleOf"),
        ({"allOf": [{"multipleOf": prime} for prime in (97, 89, 83, 79)]}, "multipleOf"),
        (
            {"$ref": "#/$defs/0", "$defs": {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(900)}},
            "$ref",
        ),
        ({"$ref": "#0", "$defs": {str(n): {"$id": f"#{n}", "$ref": f"#{n + 1}"} for n in range(900)}}, "$ref"),
        (record(**{str(n): {} for n in range(1001)}), "1000 members"),
        ({"enum": list(range(20_000))}, "20000 values"),
        ({"anyOf": [record(**{f"{n}-{m}": {} for m in range(900)}) for n in range(20)]}, "20000 values"),
        ({"allOf": [{"anyOf": [record(**{f"{n}{m}": {}}) for m in range(5)]} for n in range(12)]}, "too large"),
        ({"type": "string", "pattern": "|".join(f"word{n}" for n in range(50_000))}, "too big"),
    ],
    ids=range(9),
)
def test_a_schema_that_would_never_be_done(compiler: GrammarCompiler, schema: dict[str, Any], says: str) -> None:
    assert says in refused(compiler, schema_format(schema))


def test_a_schema_nested_without_end(compiler: GrammarCompiler) -> None:
    for depth in (101, 100_000):
        deep = '{"items":' * depth + "{}" + "}" * depth
        assert "nested deeper" in refused(compiler, JsonSchema(deep))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(abc", "unclosed group"),
        (r"(a)\1", "backreferences"),
        (r"\bword", "lookarounds"),
        ("abc\\", "backslash"),
        (r"[^\s\S]", "no text"),
        ("(" * 300 + ")" * 300, "nested"),
    ],
)
def test_a_regex_is_told_what_is_wrong(compiler: GrammarCompiler, pattern: str, says: str) -> None:
    message = refused(compiler, Regex(pattern))
    assert message.startswith("Invalid regular expression: ")
    assert says in message


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("start: other", 'line 1, column 8: unknown name: "other"'),
        ("start: other\nother: /(/", "line 2, column 8: unclosed group"),
        ("hello", "line 1"),
        ("start: start", "no text"),
        ('start: "a"\nstart: "b"', "duplicate"),
        ('start: %json {"type": "integer", "multip\\u006ceOf": 99999989}', "%json"),
        ('root ::= "a" (', "Expected"),
        ("root ::= other", "other"),
        ("root ::= " + "(" * 900 + '"a"' + ")" * 900, "recursion"),
        ("start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(5000)), "1000 rules"),
    ],
)
def test_a_grammar_is_told_what_is_wrong(compiler: GrammarCompiler, grammar: str, says: str) -> None:
    message = refused(compiler, Lark(grammar))
    assert message.startswith("Invalid grammar: ")
    assert says in message
