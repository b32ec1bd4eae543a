"""Formats other than JSON in llguidance's notation, and its error messages in ours."""

import json
import re
from typing import Final

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from app.errors import InvalidRequest

# Rules, groups and classes are compiled by recursion, which dies where the stack ends: after about 2500 of them.
_NESTING: Final = re.compile(r"[:(\[{]")
_MAX_NESTING: Final = 1000
_LONGEST_FAULT: Final = 300

_PLACE: Final = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_REASON: Final = re.compile(r"^error: (.+)$", re.MULTILINE)
_ECHO: Final = re.compile(r"^(?:invalid regex .* \(in regex\): )?(?:regex parse error:)?")


def regex_grammar(pattern: str) -> str:
    """A regular expression, in the syntax of Rust's regex crate. Errors: InvalidRequest."""
    # llguidance drops it without a word.
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise _invalid("Invalid regular expression: it ends in a backslash.")
    return LLMatcher.grammar_from_regex(pattern)


def choice_grammar(choices: tuple[str, ...]) -> str:
    """One of several texts."""
    return markup_grammar("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


def lark_grammar(grammar: str) -> str:
    """A grammar in llguidance's dialect of Lark, or in GBNF. Errors: InvalidRequest."""
    _check_nesting(grammar)
    # Its limits are kept where schemas are read, not here.
    if "%json" in grammar:
        raise _invalid("Invalid grammar: %json is not supported; give the schema as response_format.")
    if "::=" not in grammar:
        return markup_grammar(grammar)
    try:
        converted = any_to_lark(grammar)
    # It raises plain exceptions, too, and RecursionError.
    except Exception as error:
        raise _invalid(f"Invalid grammar: {str(error)[:_LONGEST_FAULT]}.") from error
    _check_nesting(converted)
    return markup_grammar(converted)


def markup_grammar(lark: str) -> str:
    """A grammar in llguidance's dialect of Lark that was written here."""
    return json.dumps({"grammars": [{"lark_grammar": lark}]})


def cleaned_fault(error: str) -> str:
    """An error message of llguidance without pictures, states and backtraces."""
    text = error.partition("\n<")[0]
    if text.startswith("panic"):
        return "it is too large or too complex"
    if text == "NoExtensionBias":
        return "no text can match it"
    line = text.partition("\n")[0]
    place = _PLACE.match(line)
    reason = _REASON.search(text)
    what = reason[1] if reason else _ECHO.sub("", line[place.end() :] if place else line)
    # A pattern of its own is always there, behind the "start: " that llguidance puts before it.
    is_place_known = place and not ("(in regex)" in line and place.groups() == ("1", "8"))
    where = f"line {place[1]}, column {place[2]}: " if place and is_place_known else ""
    return (where + what)[:_LONGEST_FAULT].rstrip(". ")


def _check_nesting(grammar: str) -> None:
    if len(_NESTING.findall(grammar)) > _MAX_NESTING:
        raise _invalid(f"Invalid grammar: it has more than {_MAX_NESTING} rules, groups and character classes.")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message)
