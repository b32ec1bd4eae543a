"""Calls whose arguments are elements named after them, objects and lists being elements inside."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.text.arguments import ValueWriter
from app.text.calls import Calls
from app.text.headers import read_header
from app.text.offered import Json, Schema, declared_types, items_schema, member_schema
from app.text.source import SPACE, Broken, Cut, Reading, Source
from app.text.strings import Write, encoded

_MAX_DEPTH: Final = 40
_ITEM: Final = "item"
_TAG: Final = re.compile(r"[^<>/\n]+")


@dataclass(frozen=True, slots=True)
class ElementCalls:
    """A header with the tool's name, then elements; every tag has `sign` before it."""

    header: str
    sign: str
    end: str

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        slots = yield from read_header(source, (self.header,))
        tool = calls.accept(slots["name"])

        def write(text: str) -> None:
            if not calls.is_started:
                calls.start(tool.name)
            calls.write(text)

        elements = _Elements(source, self.sign, tool.parameters)
        yield from elements.read_members(write, tool.parameters, self.end, 0)
        calls.end()


class _Elements:
    def __init__(self, source: Source, sign: str, root: Schema) -> None:
        self._source = source
        self._sign = sign
        self._root = root

    def read_members(self, write: Write, schema: Json, end: str, depth: int) -> Reading[None]:
        """Read the elements of an object up to the tag that ends it."""
        before = "{"
        while not (yield from self._is_at(end)):
            tag = yield from self._read_tag()
            write(f"{before}{encoded(tag)}: ")
            before = ", "
            yield from self._read_element(write, member_schema(schema, tag, self._root), tag, depth + 1)
        write("{}" if before == "{" else "}")

    def _read_items(self, write: Write, schema: Json, end: str, depth: int) -> Reading[None]:
        items = items_schema(schema, self._root)
        before = "["
        while not (yield from self._is_at(end)):
            if (yield from self._read_tag()) != _ITEM:
                raise Broken
            write(before)
            before = ", "
            yield from self._read_element(write, items, _ITEM, depth + 1)
        write("[]" if before == "[" else "]")

    def _read_element(self, write: Write, schema: Json, tag: str, depth: int) -> Reading[None]:
        """Read what is in an element, and its end."""
        if depth > _MAX_DEPTH:
            raise Broken
        end = f"{self._sign}</{tag}>"
        types = declared_types(schema, self._root)
        if (yield from self._opens_another(end)):
            is_list = "array" in types or ("object" not in types and (yield from self._source.sees(self._item_tag)))
            read = self._read_items if is_list else self.read_members
            yield from read(write, schema, end, depth)
            return
        value = ValueWriter(write, types)
        if "array" in types and "string" not in types and (yield from self._source.take(end)):
            value.add("[]")
        elif "object" in types and "string" not in types and (yield from self._source.take(end)):
            value.add("{}")
        else:
            yield from self._read_text(value.add, end)
        value.finish()

    @property
    def _item_tag(self) -> str:
        return f"{self._sign}<{_ITEM}>"

    def _opens_another(self, end: str) -> Reading[bool]:
        place = self._source.place
        yield from self._source.skip_space()
        if (yield from self._source.sees(self._sign)) and not (yield from self._source.sees(end)):
            return True
        self._source.rewind(place)
        return False

    def _read_text(self, add: Callable[[str], None], end: str) -> Reading[None]:
        source = self._source
        while not (yield from source.take(end)):
            yield from source.peek()
            index = source.text.find(self._sign[0], source.at + 1)
            stop = len(source.text) if index < 0 else index
            add(source.text[source.at : stop])
            source.at = stop

    def _is_at(self, end: str) -> Reading[bool]:
        if not (yield from self._source.skip_space()):
            raise Cut
        return (yield from self._source.take(end))

    def _read_tag(self) -> Reading[str]:
        if not (yield from self._source.take(f"{self._sign}<")):
            raise Broken
        tag = (yield from self._source.match(_TAG)).strip(SPACE)
        if not tag or not (yield from self._source.take(">")):
            raise Broken
        return tag
