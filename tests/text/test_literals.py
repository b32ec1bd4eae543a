import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.literals import JSON, PYTHON, Dialect, literal_json, read_value
from app.text.source import Broken, Cut, Source

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def read(text: str, dialect: Dialect = JSON, close: str = "") -> str:
    """The value's JSON, read character by character."""
    source, parts = Source(), list[str]()
    reading = read_value(source, parts.append, dialect, close)
    for char in text:
        next(reading)
        source.push(char)
    source.is_ended = True
    for _ in reading:
        pass
    return "".join(parts)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(value=VALUES, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_json_is_passed_on_as_it_is(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    assert literal_json(text) == text
    assert read(text) == text


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(value=VALUES)
def test_python_literals_become_json(value: Any) -> None:
    assert json.loads(read(repr(value), PYTHON)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it\\'s \"so\"'", 'it\'s "so"'),
        ('"a\nb\tc"', "a\nb\tc"),
        ('"\\d+\\."', "\\d+\\."),
        ('"it\\\'s"', "it's"),
        ("{'a': True, 'b': None,}", {"a": True, "b": None}),
        ("{a: 1, $b-c: [2,],}", {"a": 1, "$b-c": [2]}),
        ("[+1, .5, 2., 1_000, 007, -0]", [1, 0.5, 2.0, 1000, "007", 0]),
        ("[\u0661]", ["\u0661"]),
        ("[NaN, -Infinity, undefined]", [None, None, None]),
        # Half of a pair of code units, which no text has: clients refuse it.
        ('"a\\ud83d\\ude80"', "a\U0001f680"),
        ('"a\\ud83d"', "a?"),
        ('"\\ude80a"', "?a"),
        ('"\\ud83d\\ud83d\\ude80\\ud83dx"', "?\U0001f680?x"),
    ],
)
def test_what_models_make_of_json_is_mended(text: str, value: Any) -> None:
    assert json.loads(read(text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'\\x41\\u00e9\\U0001F600\\101\\0'", "A\u00e9\U0001f600A\0"),
        ("'a\\\nb\\q'", "ab\\q"),
        ("'''it's\n\"long\"'''", 'it\'s\n"long"'),
        ('"""a"b"""', 'a"b'),
        ("''", ""),
        ("('a', 1, )", ["a", 1]),
        ("{1: 'x'}", {"1": "x"}),
    ],
)
def test_python_has_more(text: str, value: Any) -> None:
    assert json.loads(read(text, PYTHON)) == value


def test_between_marks_nothing_is_escaped() -> None:
    quoted = Dialect(quote="<|")
    assert json.loads(read('{key:<|a"\\n,}<|,on:true,list:[1,<|<x|<|],bare:two words}', quoted)) == {
        "key": 'a"\\n,}',
        "on": True,
        "list": [1, "<x|"],
        "bare": "two words",
    }


CUT = ["{", '{"a"', '{"a": ', "[1, ", '"abc', '"\\u00', '"\\ud83d', "{'a': 'b\\"]


@pytest.mark.parametrize("text", [*CUT, '{"a":-', "[1e", "[2.5E-", "[t", "[1,fals", "[nul", "[-Inf", "[Tru"])
def test_a_value_that_goes_on_is_cut(text: str) -> None:
    with pytest.raises(Cut):
        read(text)
    assert literal_json(text) is None


@pytest.mark.parametrize("text", ["}", "{,}", '{"a" 1}', "[1 2]", "[1}", "maybe", "1.2.3", "{1}", "(1)", "--1", "-"])
def test_what_is_no_value_is_broken(text: str) -> None:
    with pytest.raises(Broken):
        read(f"{text} ")
    assert literal_json(text) is None


def test_depth_has_an_end() -> None:
    assert literal_json("[" * 200 + "]" * 200) == "[" * 200 + "]" * 200
    assert literal_json("[" * 201 + "]" * 201) is None


def test_brackets_that_are_due_where_it_closes_are_added() -> None:
    assert read('{"a": [1, {"b": 2</end>', close="</end>") == '{"a": [1, {"b": 2}]}'
    with pytest.raises(Broken):
        read('{"a": </end>', close="</end>")


def test_no_number_is_changed() -> None:
    assert literal_json("123456789012345678901234567890") == "123456789012345678901234567890"
    assert literal_json("-0.10e+05") == "-0.10e+05"
    assert math.isclose(float(literal_json("1.") or "nan"), 1.0)
