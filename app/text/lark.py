"""Pieces of grammars in llguidance's dialect of Lark (its docs/syntax.md)."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.text.offered import Json, Schema

ANY_TEXT: Final = "/(?s:.*)/"
_REFERENCE: Final = "$ref"
_ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class NamedSchema:
    """A JSON schema, as JSON text, of a function's arguments or of one of them."""

    function: str
    schema: str


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """A grammar of calls. Its rules `schema_0`, `schema_1` and so on, which it lacks, are the JSON of `schemas`.

    `is_json` says that arguments are always JSON.
    """

    lark: str
    schemas: tuple[NamedSchema, ...]
    is_json: bool


@dataclass(slots=True)
class LarkRules:
    """A grammar in the making; `tokens` are the texts that are one token, which is then meant and no other spelling."""

    tokens: Mapping[str, int]
    schemas: list[NamedSchema] = field(default_factory=list[NamedSchema])
    _rules: list[str] = field(default_factory=list[str])

    def text(self, text: str) -> str:
        """A text as a part of a rule."""
        return " ".join(
            f"<[{self.tokens[part]}]>" if part in self.tokens else json.dumps(part, ensure_ascii=False)
            for part in self._split(text)
        )

    def schema(self, function: str, schema: Json, root: Schema) -> str:
        """The rule of a value's JSON."""
        text = json.dumps(schema if isinstance(schema, dict) else {})
        if schema is not root and f'"{_REFERENCE}"' in text:
            text = json.dumps({"$defs": {_ROOT: _rebased(root)}, "allOf": [_rebased(schema)]})
        self.schemas.append(NamedSchema(function, text))
        return f"schema_{len(self.schemas) - 1}"

    def rule(self, expression: str) -> str:
        """The name of a new rule."""
        self._rules.append(f"rule_{len(self._rules)}: {expression}")
        return self._rules[-1].partition(":")[0]

    def one_of(self, expressions: Sequence[str]) -> str:
        """A rule for any of these."""
        return expressions[0] if len(expressions) == 1 else self.rule(" | ".join(expressions))

    def text_up_to(self, close: str, shape: str, forbidden: Iterable[str]) -> str:
        """Any text of a shape that has neither `close` nor, as regular expressions, `forbidden` in it, then `close`."""
        unwanted = (_escaped(close.strip()), *forbidden)
        body = " & ".join([shape, *(f"~/(?s:.*)(?:{one})(?s:.*)/" for one in unwanted)])
        first, *others = self._split(close)
        if first in self.tokens:
            return f"{self._terminal(body)} {self.text(close)}"
        # One terminal to the end: by itself the text would go on into the beginning of what closes it.
        terminal = self._terminal(f"({body}) {json.dumps(first, ensure_ascii=False)}")
        return f"{terminal} {self.text(''.join(others))}".rstrip()

    def finished(self, start: str, *, is_json: bool) -> CallGrammar:
        """The grammar that begins with `start`."""
        return CallGrammar("\n".join((f"start: {start}", *self._rules)), tuple(self.schemas), is_json)

    def _terminal(self, definition: str) -> str:
        self._rules.append(f"TEXT_{len(self._rules)}: {definition}")
        return self._rules[-1].partition(":")[0]

    def _split(self, text: str) -> list[str]:
        """The tokens in a text and what is between them."""
        names = sorted((name for name in self.tokens if name in text), key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
        return [part for part in parts if part]


def _rebased(value: Json) -> Json:
    """A schema whose references into its root lead to where that is in another one."""
    match value:
        case dict():
            return {
                key: f"#/$defs/{_ROOT}{inner[1:]}"
                if key == _REFERENCE and isinstance(inner, str) and inner.startswith("#")
                else _rebased(inner)
                for key, inner in value.items()
            }
        case list():
            return [_rebased(one) for one in value]
        case _:
            return value


def regex_of(texts: Sequence[str]) -> str:
    """A regular expression for texts that follow each other, with or without white space between them."""
    return r"\s*".join(map(_escaped, texts))


def _escaped(text: str) -> str:
    """A text in a regular expression of Rust's regex crate between slashes."""
    return "".join(char if char.isalnum() or not char.isascii() or char in " <>_" else f"\\{char}" for char in text)
