"""Grammars of values that are written as they are: texts without quotes, other values as JSON."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.text.lark import ANY_TEXT, LarkRules
from app.text.offered import Json, OfferedTool, Schema, declared_types, followed

_MAX_DEPTH: Final = 8
_UNIONS: Final = ("anyOf", "oneOf")
_TEXT: Final = frozenset({"string"})
_TEXT_OR_NULL: Final = frozenset({"string", "null"})
_TEXT_AND_NUMBERS: Final = frozenset({"string", "integer", "number"})
_LIKE_ANOTHER_TYPE: Final = r"/\s*[\[{\-+.0-9tfnTFNIu\"'](?s:.*)/"
_CLASSES: Final = {"d": "0-9", "w": "A-Za-z0-9_"}

_DATE: Final = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL: Final = "[a-z0-9]([a-z0-9\\-]{0,30}[a-z0-9])?"
_FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": r"P([1-9][0-9]{0,3}D(T[1-9][0-9]{0,3}H)?|T[1-9][0-9]{0,3}[HMS])",
    "email": rf"[a-z0-9_+\-]{{1,32}}(\.[a-z0-9_+\-]{{1,32}})?@({_LABEL}\.){{1,3}}[a-z]{{2,8}}",
    "hostname": rf"({_LABEL}\.){{0,3}}{_LABEL}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "ipv6": "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}


def is_text(schema: Json, tool: OfferedTool) -> bool:
    """Whether a value may be a text."""
    return "string" in declared_types(schema, tool.parameters)


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which a value may be written, each a part of a rule: as a text, and as other JSON."""

    texts: list[str]
    others: list[str]


class RawValues:
    """Rules of one tool's values; a text has none of the regular expressions `forbidden` in it.

    With `is_marked` the markup around a value tells texts from others; without, no text looks like one of the others.
    """

    def __init__(
        self, rules: LarkRules, tool: OfferedTool, forbidden: Sequence[str] = (), *, is_marked: bool = False
    ) -> None:
        self._rules = rules
        self._tool = tool
        self._root = tool.parameters
        self._forbidden = forbidden
        self._is_marked = is_marked

    def value(self, schema: Json, close: str) -> str:
        """A value and the text that closes it."""
        ways = self.ways(schema, close, close)
        return self._rules.one_of([*ways.texts, *ways.others])

    def ways(self, schema: Json, close_text: str, close: str) -> Ways:
        """The ways of a value, `close_text` behind a text and `close` behind others."""
        types = declared_types(schema, self._root)
        texts, others = self._split(schema, _MAX_DEPTH)
        after = self._rules.text(close)
        rules = [self._rules.schema(self._tool.name, one, self._root) for one in others]
        return Ways(
            [self._text(one, close_text, types) for one in texts], [f"{rule} {after}".rstrip() for rule in rules]
        )

    def _split(self, schema: Json, depth: int) -> tuple[list[Schema], list[Schema]]:
        """The schemas of the texts that a schema allows, and of the other values."""
        own = followed(schema, self._root)
        if not is_text(own, self._tool) or not depth:
            return [], [own]
        branches = next((own[one] for one in _UNIONS if isinstance(own.get(one), list)), None)
        if isinstance(branches, list):
            splits = [self._split(one, depth - 1) for one in branches]
            texts = [text for of_one, _ in splits for text in of_one]
            return texts, [other for _, of_one in splits for other in of_one if self._can_be_told(other)]
        if values := _listed(own):
            texts = _one_of_these([value for value in values if isinstance(value, str)])
            others = _one_of_these([value for value in values if not isinstance(value, str)])
            return texts, [other for other in others if self._can_be_told(other)]
        names: list[Json] = [*sorted(declared_types(own, self._root) - self._untold())]
        return [own], [{**own, "type": names}] if names and "type" in own else []

    def _can_be_told(self, schema: Json) -> bool:
        return not declared_types(schema, self._root) & self._untold()

    def _untold(self) -> frozenset[str]:
        # A number is read as a text where there may be either.
        return _TEXT if self._is_marked else _TEXT_AND_NUMBERS

    def _text(self, schema: Schema, close: str, types: frozenset[str]) -> str:
        parts = list(_parts(schema, self._root))
        values = next((values for part in parts if (values := _listed(part))), None)
        if values is not None:
            either = self._rules.rule(" | ".join(self._rules.text(str(text)) or '""' for text in values))
            return f"{either} {self._rules.text(close)}"
        shape = " & ".join([_length(parts), *_patterns(parts)])
        if types - _TEXT_OR_NULL and not self._is_marked:
            shape += f" & ~{_LIKE_ANOTHER_TYPE}"
        return self._rules.text_up_to(close, shape, self._forbidden)


def _one_of_these(values: list[Json]) -> list[Schema]:
    return [{"enum": values}] if values else []


def _parts(schema: Json, root: Schema, depth: int = _MAX_DEPTH) -> Iterator[Schema]:
    """A schema and those that it adds to its own keywords."""
    own = followed(schema, root)
    yield own
    together = own.get("allOf")
    for one in together if isinstance(together, list) and depth else ():
        yield from _parts(one, root, depth - 1)


def _listed(schema: Schema) -> list[Json]:
    values = schema.get("enum")
    return [schema["const"]] if "const" in schema else values if isinstance(values, list) else []


def _length(parts: Sequence[Schema]) -> str:
    low = max((value for part in parts if isinstance(value := part.get("minLength"), int)), default=0)
    high = min((value for part in parts if isinstance(value := part.get("maxLength"), int)), default=None)
    return f"/(?s:.){{{low},{'' if high is None else high}}}/" if low or high is not None else ANY_TEXT


def _patterns(parts: Sequence[Schema]) -> Iterator[str]:
    for part in parts:
        if isinstance(pattern := part.get("pattern"), str):
            yield _pattern(pattern)
        if (name := part.get("format")) in _FORMATS:
            yield f"/{_FORMATS[str(name)]}/"


def _pattern(pattern: str) -> str:
    """A terminal for the texts that a pattern of ECMA-262 matches somewhere.

    Anchors count at its ends only, where they are taken to hold for all of its alternatives.
    """
    is_closed = pattern.endswith("$") and not pattern.endswith(r"\$")
    core = pattern.removeprefix("^")
    before = "(?s:.*)" if core == pattern else ""
    after = "" if is_closed else "(?s:.*)"
    return f"/{before}(?:{_in_ascii(core.removesuffix('$') if is_closed else core)}){after}/"


def _in_ascii(pattern: str) -> str:
    """The same pattern for Rust's regex crate between slashes, where digits and letters would be any script's."""
    parts: list[str] = []
    is_in_class = False
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        if part in ("[", "]"):
            is_in_class = part == "["
        letters = _CLASSES.get(part[1:]) if part[0] == "\\" else None
        if letters:
            parts.append(letters if is_in_class else f"[{letters}]")
        else:
            parts.append(r"\/" if part == "/" else part)
    return "".join(parts)
