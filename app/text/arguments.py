"""The arguments of a call as its tool's schema wants them, from values that are written as text."""

from typing import Final

from app.text.literals import literal_json
from app.text.offered import json_type
from app.text.source import SPACE
from app.text.strings import Write, decoded, encoded, encoded_inside

_TEXT: Final = frozenset({"string"})
_TEXT_OR_NULL: Final = frozenset({"string", "null"})
_BOOLEAN: Final = frozenset({"boolean"})
_NULLS: Final = ("null", "None")


def marked_types(types: frozenset[str], *, is_text: bool) -> frozenset[str]:
    """The types of an argument where the markup says itself whether it is a text, as far as its schema leaves that."""
    if is_text:
        return types if types and "string" not in types else _TEXT
    return types - _TEXT or types


def value_json(text: str, types: frozenset[str]) -> str:
    """The JSON of an argument written as text, of one of these types if it can be read so.

    A text stays one where texts are declared; what cannot be read as its type is passed on as text.
    """
    stripped = text.strip(SPACE)
    if types == _TEXT_OR_NULL and stripped in _NULLS:
        return "null"
    value = literal_json(stripped.lower() if types == _BOOLEAN else stripped)
    if value is None or types in (_TEXT, _TEXT_OR_NULL):
        return encoded(text)
    kind = json_type(value)
    if "string" in types:
        # A number where numbers and texts are allowed may be a code with a meaning of its own.
        return value if kind in types and kind not in ("string", "number", "integer") else encoded(text)
    if kind == "string" and types:
        return _unquoted(value, types)
    if kind == "number" and "integer" in types and "number" not in types:
        return value.removesuffix(".0")
    return value


def _unquoted(value: str, types: frozenset[str]) -> str:
    """The value in a JSON string where no text is wanted, if it is of a type that is."""
    inner = literal_json(decoded(value))
    return inner if inner and _fits(json_type(inner), types) else value


def _fits(kind: str, types: frozenset[str]) -> bool:
    return kind in types or (kind == "integer" and "number" in types)


class ValueWriter:
    """Writes an argument's value as JSON while its text comes: texts at once, other values when they are whole."""

    def __init__(self, write: Write, types: frozenset[str]) -> None:
        self._write = write
        self._types = types
        self._held: list[str] = []
        self._is_text = False
        if types == _TEXT:
            self._begin_text()

    def add(self, text: str) -> None:
        """Take more of the value's text."""
        if self._is_text:
            self._write(encoded_inside(text))
            return
        self._held.append(text)
        if self._types == _TEXT_OR_NULL:
            start = "".join(self._held)
            if start and not any(null.startswith(start.strip(SPACE)) for null in _NULLS):
                self._held.clear()
                self._begin_text()
                self.add(start)

    def finish(self) -> None:
        """The value is whole."""
        self._write('"' if self._is_text else value_json("".join(self._held), self._types))

    def _begin_text(self) -> None:
        self._is_text = True
        self._write('"')
