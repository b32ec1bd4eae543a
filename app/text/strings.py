"""Strings as models write them, made JSON while they come."""

import json
import re
from collections.abc import Callable
from typing import Final

from app.text.source import Cut, Reading, Source

Write = Callable[[str], None]

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
PLAIN: Final = {
    '"': re.compile(r'[^"\\\x00-\x1f]+'),
    "'": re.compile(r"[^'\"\\\x00-\x1f]+"),
}
_JSON_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_PYTHON_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3}))")
_ESCAPE_LENGTHS: Final = {"x": 4, "u": 6, "U": 10, **dict.fromkeys("01234567", 4)}
_PYTHON_SIGNS: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": ""} | {
    sign: sign for sign in "\\'\""
}


_HIGH: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LOW: Final = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class _Paired:
    """Writes the inside of a string: half of a pair of code units that stands alone becomes a question mark."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._high = ""

    def __call__(self, text: str) -> None:
        high, self._high = self._high, ""
        is_low = _LOW.fullmatch(text) is not None
        if _HIGH.fullmatch(text):
            self._high = text
            if high:
                self._write("?")
        elif high:
            self._write(high + text if is_low else f"?{text}")
        else:
            self._write("?" if is_low else text)


def encoded(text: str) -> str:
    """A text as a JSON string."""
    return _ENCODER.encode(text)


def encoded_inside(text: str) -> str:
    """A text as it is inside a JSON string."""
    return _ENCODER.encode(text)[1:-1]


def decoded(text: str) -> str:
    """The text of a JSON string; half of a pair of code units that stands alone becomes a question mark."""
    return str(json.loads(text)).encode(errors="replace").decode()


def read_raw(source: Source, write: Write, close: str) -> Reading[None]:
    """Read a text up to a marker, and the marker. Errors: Cut."""
    while True:
        index = source.text.find(close[0], source.at)
        end = len(source.text) if index < 0 else index
        if end > source.at:
            write(source.text[source.at : end])
            source.at = end
        if index >= 0 and (yield from source.take(close)):
            return
        if source.at < len(source.text):
            write(source.text[source.at])
            source.at += 1
        elif source.is_ended:
            raise Cut
        else:
            yield


def read_string(source: Source, write: Write, quote: str, *, is_python: bool) -> Reading[None]:
    """Read the rest of a string; its opening quote has been read."""
    plain = PLAIN[quote]
    write = _Paired(write)
    write('"')
    while True:
        if found := plain.match(source.text, source.at):
            write(found[0])
            source.at = found.end()
        char = yield from source.peek()
        if char == "\\":
            yield from _read_escape(source, write, is_python=is_python)
        elif char == quote:
            source.at += 1
            write('"')
            return
        elif char == '"' or char < " ":
            source.at += 1
            write(encoded_inside(char))


def read_long_string(source: Source, write: Write, quote: str) -> Reading[None]:
    """Read the rest of a string in triple quotes."""
    write = _Paired(write)
    write('"')
    while not (yield from source.take(quote)):
        char = yield from source.peek()
        if char == "\\":
            yield from _read_escape(source, write, is_python=True)
        else:
            source.at += 1
            write(encoded_inside(char))
    write('"')


def _read_escape(source: Source, write: Write, *, is_python: bool) -> Reading[None]:
    """Read a backslash and what belongs to it. One that means nothing is kept as it is."""
    while len(source.text) - source.at < 2 or len(source.text) - source.at < _length(source):
        if source.is_ended:
            raise Cut
        yield
    if not is_python and (found := _JSON_ESCAPE.match(source.text, source.at)):
        source.at = found.end()
        write(found[0])
        return
    sign = source.text[source.at + 1]
    if is_python and (found := _PYTHON_ESCAPE.match(source.text, source.at)):
        source.at = found.end()
        code = int(found[4], 8) if found[4] else int(found[1] or found[2] or found[3], 16)
        write(_character(code))
    elif is_python and sign in _PYTHON_SIGNS:
        source.at += 2
        write(encoded_inside(_PYTHON_SIGNS[sign]))
    elif sign == "'":
        source.at += 2
        write("'")
    else:
        source.at += 1
        write("\\\\")


def _length(source: Source) -> int:
    """How long an escape may be; less where it ends before."""
    text = source.text[source.at : source.at + 10]
    length = _ESCAPE_LENGTHS.get(text[1], 2)
    for index, char in enumerate(text[2:length], 2):
        if not char.isalnum():
            return index
    return length


def _character(code: int) -> str:
    """A character inside a JSON string; half of a pair is an escape."""
    if 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}"
    return encoded_inside(chr(min(code, 0x10FFFF)))
