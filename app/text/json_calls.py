"""Calls written as JSON: objects with the name inside, and objects after the name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.text.calls import Calls, another_follows
from app.text.headers import read_header
from app.text.literals import literal_json, read_value
from app.text.offered import OfferedTool
from app.text.source import SPACE, Broken, Cut, Reading, Source
from app.text.strings import Write, decoded

_NAME_KEYS: Final = ("name", "tool_name", "function_name", "function", "tool")
_ARGUMENT_KEYS: Final = ("arguments", "parameters", "args", "input")
_KEYS_BEFORE_NAME: Final = (*_NAME_KEYS, *_ARGUMENT_KEYS, "type", "id", "tool_call_id")


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Objects that have the tool's name and its arguments, one or several, in a list or not.

    All ways of writing are read. `item` is the family's own, and whether there is a list; `between` is what it writes
    between two in one region, nothing where it writes a region for each.
    """

    item: str = '{"name": "{name}", "arguments": {arguments}}'
    is_list: bool = False
    between: str = ""

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        is_list = (yield from source.skip_space()) == "["
        source.at += is_list
        while True:
            if (yield from _next_char(source)) != "{":
                raise Broken
            source.at += 1
            yield from self._read_item(source, calls, close)
            calls.end()
            if not (yield from another_follows(source, _begins, is_list=is_list)):
                return

    def _read_item(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        if self.item.startswith('{"{name}"'):
            yield from _read_keyed_call(source, calls, close)
        else:
            yield from _Item(source, calls, close).read()


@dataclass(frozen=True, slots=True)
class NamedJson:
    """An object of arguments after a header with the tool's name; `headers` has the family's own way first."""

    headers: tuple[str, ...]

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        slots = yield from read_header(source, self.headers)
        tool = calls.accept(slots["name"])
        yield from _next_char(source)
        if close and (yield from source.sees(close)):
            calls.start(tool.name)
            calls.write("{}")
        else:
            yield from read_arguments(source, calls.write, lambda: calls.start(tool.name), close)
        calls.end()


def read_arguments(source: Source, write: Write, start: Callable[[], None], close: str) -> Reading[None]:
    """Read an object, or a string with the JSON of one; `start` is called before anything is written."""
    if (yield from _next_char(source)) == "{":
        start()
        yield from read_value(source, write, close=close)
        return
    value = yield from _read_whole(source, close)
    written = decoded(value).strip(SPACE) if value.startswith('"') else value
    text = "{}" if written in ("", "null") else literal_json(written)
    if text is None or not text.startswith("{"):
        raise Broken
    start()
    write(text)


class _Item:
    """One object with a name and arguments inside, in any order, other members passed by."""

    def __init__(self, source: Source, calls: Calls, close: str) -> None:
        self._source = source
        self._calls = calls
        self._close = close
        self._tool: OfferedTool | None = None
        self._early: list[str] = []
        self._num_open = 1

    def read(self) -> Reading[None]:
        """Read up to the end of the object, which has been opened."""
        while self._num_open:
            if (yield from _next_char(self._source)) == "}":
                self._source.at += 1
                self._num_open -= 1
            elif not (yield from self._is_closed_early()) and (yield from self._read_member()):
                char = yield from _next_char(self._source)
                self._source.at += char == ","
                if char not in ",}" and not (yield from self._is_closed_early()):
                    raise Broken
        if self._tool is None:
            raise Broken
        if not self._calls.is_started:
            self._calls.start(self._tool.name)
            self._calls.write("".join(self._early) or "{}")

    def _is_closed_early(self) -> Reading[bool]:
        """Whether the closing marker comes where a bracket is due, which is then taken as forgotten."""
        is_closed = bool(self._close) and self._tool is not None and (yield from self._source.sees(self._close))
        if is_closed:
            self._num_open = 0
        return is_closed

    def _read_member(self) -> Reading[bool]:
        """Read a member; gives whether all of it, or only the beginning of an object that has the name in it."""
        key = yield from _read_key(self._source)
        if self._tool is None and self._calls.is_strict and key not in _KEYS_BEFORE_NAME:
            raise Broken
        char = yield from _next_char(self._source)
        if key in _NAME_KEYS and char == "{":
            self._source.at += 1
            self._num_open += 1
            return False
        if key in _NAME_KEYS and self._tool is None:
            name = yield from _read_whole(self._source, "")
            self._tool = self._calls.accept(decoded(name) if name.startswith('"') else "")
        elif key in _ARGUMENT_KEYS:
            yield from self._read_arguments()
        else:
            yield from read_value(self._source, _ignore)
        return True

    def _read_arguments(self) -> Reading[None]:
        if self._calls.is_started or self._early:
            raise Broken
        if (tool := self._tool) is None:
            yield from read_arguments(self._source, self._early.append, _start_later, "")
        else:
            start = lambda: self._calls.start(tool.name)  # noqa: E731
            yield from read_arguments(self._source, self._calls.write, start, self._close)


def _read_keyed_call(source: Source, calls: Calls, close: str) -> Reading[None]:
    """Read an object whose one member is the arguments under the tool's name; it has been opened."""
    name = yield from _read_key(source)
    tool = calls.accept(name)
    yield from read_arguments(source, calls.write, lambda: calls.start(tool.name), close)
    if (yield from _next_char(source)) == "}":
        source.at += 1
    elif not (close and (yield from source.sees(close))):
        raise Broken


def _read_key(source: Source) -> Reading[str]:
    """Read a key, and the colon after it."""
    if (yield from _next_char(source)) not in "\"'":
        raise Broken
    key = yield from _read_whole(source, "")
    if (yield from _next_char(source)) != ":":
        raise Broken
    source.at += 1
    return decoded(key)


def _read_whole(source: Source, close: str) -> Reading[str]:
    """Read a value that is of use only when it is whole; gives its JSON."""
    parts: list[str] = []
    yield from read_value(source, parts.append, close=close)
    return "".join(parts)


def _next_char(source: Source) -> Reading[str]:
    char = yield from source.skip_space()
    if not char:
        raise Cut
    return char


def _begins(char: str) -> bool:
    return char == "{"


def _ignore(_: str) -> None:
    """What is written here is of no use."""


def _start_later() -> None:
    """The name is not known yet."""
