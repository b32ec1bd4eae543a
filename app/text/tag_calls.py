"""Calls whose arguments stand between tags, as they are: nothing in them is escaped."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from app.text.arguments import ValueWriter, marked_types
from app.text.calls import Calls
from app.text.headers import leading_text, read_header
from app.text.offered import declared_types
from app.text.source import SPACE, Cut, Markers, Reading, Source
from app.text.strings import encoded

_TEXT_KINDS: Final = ("true", "string")
_MAX_SPACE: Final = 64
_CDATA: Final = "<![CDATA["
_CDATA_END: Final = "]]>"


@dataclass(frozen=True, slots=True)
class TagCalls:
    """A header with the tool's name, arguments in tags, and the end of the call.

    `parameters` are ways to open an argument, the family's own first. With `is_on_lines` a value stands on lines of its
    own: one line break at each end is not part of it. `after` is what comes after calls and between them: in a value
    the end of the call counts only with one of these, or the end of the text, behind it. Where `is_end_optional` the
    text may also end after an argument.
    """

    header: str
    parameters: tuple[str, ...]
    value_close: str
    end: str
    after: tuple[str, ...] = ()
    is_on_lines: bool = False
    is_end_optional: bool = False
    has_cdata: bool = False

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        slots = yield from read_header(source, (self.header,))
        tool = calls.accept(_unescaped(slots["name"]))
        num_arguments = 0
        while not (yield from self._is_at_end(source, num_arguments)):
            slots = yield from read_header(source, self.parameters)
            key = _unescaped(slots["key"])
            if not num_arguments:
                calls.start(tool.name)
            calls.write(f"{', ' if num_arguments else '{'}{encoded(key)}: ")
            types = declared_types(tool.schema_of(key), tool.parameters)
            if kind := slots.get("kind"):
                types = marked_types(types, is_text=kind in _TEXT_KINDS)
            value = ValueWriter(calls.write, types)
            yield from self._read_value(source, value)
            value.finish()
            num_arguments += 1
        if not num_arguments:
            calls.start(tool.name)
            calls.write("{")
        calls.write("}")
        calls.end()

    def _is_at_end(self, source: Source, num_arguments: int) -> Reading[bool]:
        if not (yield from source.skip_space()):
            if num_arguments and self.is_end_optional:
                return True
            raise Cut
        return (yield from source.take(self.end))

    def _read_value(self, source: Source, value: ValueWriter) -> Reading[None]:
        if self.has_cdata and (yield from source.take(_CDATA)):
            ends = _Ends(_CDATA_END + self.value_close.strip(SPACE), "", (), ())
        else:
            followers = (leading_text(self.parameters[0]), self.end)
            ends = _Ends(self.value_close.strip(SPACE), self.end, followers, self.after)
        lines = _Lines(value) if self.is_on_lines else value
        while not (yield from ends.read(source, lines)):
            pass


class _Lines:
    """Passes a value on without the line breaks at its ends."""

    def __init__(self, value: ValueWriter) -> None:
        self._value = value
        self._is_first = True
        self._held = ""

    def add(self, text: str) -> None:
        text = self._held + text
        if self._is_first and text != "\r":
            self._is_first = False
            text = text.removeprefix("\r").removeprefix("\n")
        kept = text.removesuffix("\n").removesuffix("\r")
        self._held = text[len(kept) :]
        if kept:
            self._value.add(kept)


class _Ends:
    """Where a value ends: at its closing tag with `followers` behind it, or, that forgotten, at the end of the call."""

    def __init__(self, close: str, end: str, followers: tuple[str, ...], after: tuple[str, ...]) -> None:
        self._close = close
        self._markers = _markers(close, end)
        self._followers = {close: followers, end: after}

    def read(self, source: Source, value: "ValueWriter | _Lines") -> Reading[bool]:
        """Read some of the value; gives whether that was all. Errors: Cut."""
        index, marker = self._markers.find(source)
        if index > source.at:
            value.add(source.text[source.at : index])
            source.at = index
        if marker:
            return (yield from self._read_marker(source, value, marker))
        if source.is_ended:
            raise Cut
        yield
        return False

    def _read_marker(self, source: Source, value: "ValueWriter | _Lines", marker: str) -> Reading[bool]:
        followers = self._followers[marker]
        is_end = not followers and marker == self._close
        if is_end or (yield from _is_followed(source, len(marker), followers)):
            # The call's own end is read after the value.
            source.at += len(marker) if marker == self._close else 0
            return True
        value.add(marker)
        source.at += len(marker)
        return False


@lru_cache(maxsize=256)
def _markers(close: str, end: str) -> Markers:
    return Markers([one for one in (close, end) if one])


def _is_followed(source: Source, ahead: int, followers: tuple[str, ...]) -> Reading[bool]:
    """Whether one of the followers, or the end of the text, comes `ahead` characters later, after any white space."""
    while True:
        rest = source.text[source.at + ahead : source.at + ahead + _MAX_SPACE]
        num_spaces = len(rest) - len(rest.lstrip(SPACE))
        if num_spaces < len(rest) or len(rest) == _MAX_SPACE:
            break
        if source.is_ended:
            return True
        yield
    for follower in followers:
        if (yield from source.sees(follower, ahead + num_spaces)):
            return True
    return False


def _unescaped(text: str) -> str:
    return text.replace("&quot;", '"').replace("&amp;", "&")
