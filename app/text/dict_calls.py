"""Calls in gemma's notation: the name, and members whose texts stand between markers."""

import re
from dataclasses import dataclass
from typing import Final

from app.text.arguments import ValueWriter, marked_types, value_json
from app.text.calls import Calls
from app.text.headers import read_header
from app.text.literals import Dialect, read_value
from app.text.offered import OfferedTool, declared_types
from app.text.source import SPACE, Broken, Cut, Reading, Source
from app.text.strings import encoded, read_raw

_KEY: Final = re.compile(r"[^\s:,\"'{}\[\]()<>]+")
_WORDS: Final = re.compile(r"[^,{}\[\]<]+")


@dataclass(frozen=True, slots=True)
class DictCalls:
    """A header with the tool's name, then members in braces; `quote` stands on both sides of a text."""

    header: str
    quote: str

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        slots = yield from read_header(source, (self.header,))
        tool = calls.accept(slots["name"])
        if (yield from source.peek()) != "{":
            raise Broken
        source.at += 1
        calls.start(tool.name)
        calls.write("{")
        is_first = True
        while (char := (yield from source.skip_space())) != "}":
            if not char:
                raise Cut
            if not is_first:
                if char != ",":
                    raise Broken
                source.at += 1
                yield from source.skip_space()
            yield from self._read_member(source, calls, tool, "" if is_first else ", ")
            is_first = False
        source.at += 1
        calls.write("}")
        calls.end()

    def _read_member(self, source: Source, calls: Calls, tool: OfferedTool, before: str) -> Reading[None]:
        key = yield from self._read_key(source)
        if (yield from source.skip_space()) != ":":
            raise Broken if (yield from source.peek()) else Cut
        source.at += 1
        calls.write(f"{before}{encoded(key)}: ")
        types = declared_types(tool.schema_of(key), tool.parameters)
        char = yield from source.skip_space()
        if (yield from source.take(self.quote)):
            value = ValueWriter(calls.write, marked_types(types, is_text=True))
            yield from read_raw(source, value.add, self.quote)
            value.finish()
        elif char and char in "{[\"'":
            yield from read_value(source, calls.write, Dialect(quote=self.quote))
        else:
            words = (yield from source.match(_WORDS)).strip(SPACE)
            yield from source.peek()
            if not words:
                raise Broken
            calls.write(value_json(words, marked_types(types, is_text=False)))

    def _read_key(self, source: Source) -> Reading[str]:
        if (yield from source.take(self.quote)):
            parts: list[str] = []
            yield from read_raw(source, parts.append, self.quote)
            return "".join(parts)
        key = yield from source.match(_KEY)
        yield from source.peek()
        if not key:
            raise Broken
        return key
