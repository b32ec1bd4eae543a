"""Values as models write them - JSON, Python literals, gemma's notation - made JSON while they come."""

import re
from dataclasses import dataclass
from typing import Final

from app.text.source import SPACE, Broken, Cut, Reading, Source
from app.text.strings import PLAIN, Write, encoded, encoded_inside, read_long_string, read_raw, read_string

_MAX_DEPTH: Final = 200
_MAX_WORD: Final = 4000

_PLAIN_KEY: Final = re.compile(r"[^\s:,\"'{}\[\]()<>]+")
_WORD: Final = re.compile(r"[\w.+\-]+")
_BARE_TEXT: Final = re.compile(r"[^,{}\[\]\"'<]+")
_SPACES: Final = re.compile(r"[ \t\r\n]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_LOOSE_NUMBER: Final = re.compile(r"[+-]?(?:[1-9][\d_]*|0)?(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_BEGUN_NUMBER: Final = re.compile(r"[+-]?[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d*)?", re.ASCII)
_WORDS: Final = {
    **{word: word.lower() for word in ("true", "false", "null", "True", "False")},
    **dict.fromkeys(("None", "undefined", "NaN", "Infinity", "-Infinity", "nan", "inf", "-inf"), "null"),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How values are written.

    `quote` stands around texts in which nothing is escaped; in the dialect that has one, words need no quotes.
    """

    is_python: bool = False
    quote: str = ""


JSON: Final = Dialect()
PYTHON: Final = Dialect(is_python=True)


def literal_json(text: str) -> str | None:
    """The JSON of a whole text that is one value, in JSON or Python's notation; None for another text."""
    source = Source()
    source.push(text)
    source.is_ended = True
    parts: list[str] = []
    try:
        for _ in read_value(source, parts.append):
            pass
    except (Broken, Cut):
        return None
    return None if source.text[source.at :].strip(SPACE) else "".join(parts)


def read_value(source: Source, write: Write, dialect: Dialect = JSON, close: str = "") -> Reading[None]:
    """Read one value and write it as JSON, white space included.

    Where `close` comes after a value in place of brackets, those are taken as forgotten. Errors: Broken, Cut.
    """
    due: list[str] = []
    while True:
        char = yield from _pass_space(source, write)
        if due and due[-1] == "}":
            yield from _read_key(source, write, dialect)
            char = yield from _pass_space(source, write)
        if char in "{[" or (char == "(" and dialect.is_python):
            _open(source, write, due, char)
            if (yield from _pass_space(source, write)) != due[-1]:
                continue
            _close(source, write, due)
        else:
            yield from _read_scalar(source, write, dialect)
        if (yield from _is_finished(source, write, due, close)):
            return


def _is_finished(source: Source, write: Write, due: list[str], close: str) -> Reading[bool]:
    """After a value: whether it was the last, or another follows."""
    while due:
        char = yield from _pass_space(source, write)
        if char == ",":
            source.at += 1
            spaces = [","]
            char = yield from _pass_space(source, spaces.append)
            # A comma before a closing bracket is dropped.
            if char != due[-1]:
                write("".join(spaces))
                return False
        if char == due[-1]:
            _close(source, write, due)
        elif close and (yield from source.sees(close)):
            while due:
                write("}" if due.pop() == "}" else "]")
        else:
            raise Broken
    return True


def _open(source: Source, write: Write, due: list[str], char: str) -> None:
    if len(due) == _MAX_DEPTH:
        raise Broken
    source.at += 1
    write("{" if char == "{" else "[")
    due.append({"{": "}", "[": "]", "(": ")"}[char])


def _close(source: Source, write: Write, due: list[str]) -> None:
    source.at += 1
    write("}" if due.pop() == "}" else "]")


def _pass_space(source: Source, write: Write) -> Reading[str]:
    while True:
        if found := _SPACES.match(source.text, source.at):
            write(found[0])
            source.at = found.end()
        if source.at < len(source.text):
            return source.text[source.at]
        if source.is_ended:
            raise Cut
        yield


def _read_key(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    if not (yield from _read_quoted(source, write, dialect)):
        key = yield from source.match(_PLAIN_KEY)
        if not key:
            raise Broken
        write(encoded(key))
    if (yield from _pass_space(source, write)) != ":":
        raise Broken
    source.at += 1
    write(":")


def _read_scalar(source: Source, write: Write, dialect: Dialect) -> Reading[None]:
    if (yield from _read_quoted(source, write, dialect)):
        return
    word = (yield from source.match(_BARE_TEXT if dialect.quote else _WORD)).rstrip(SPACE)
    if not word or len(word) > _MAX_WORD:
        raise Broken
    if (value := _word_json(word)) is None:
        if not dialect.quote:
            raise Cut if source.is_ended and source.at == len(source.text) and _is_begun(word) else Broken
        value = encoded(word)
    write(value)


def _word_json(word: str) -> str | None:
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word):
        return word
    if _LOOSE_NUMBER.fullmatch(word) and any(map(str.isdigit, word)):
        whole, point, rest = word.lstrip("+").replace("_", "").partition(".")
        sign = "-" if whole.startswith("-") else ""
        return f"{sign}{whole.removeprefix('-') or '0'}{'.' if point else ''}{_digits_first(rest) if point else ''}"
    # A number cannot begin with a zero: it is a text, like a postal code.
    return encoded(word) if word.isdecimal() else None


def _is_begun(word: str) -> bool:
    """Whether a word may be the beginning of a value that was cut off."""
    return _BEGUN_NUMBER.fullmatch(word) is not None or any(known.startswith(word) for known in _WORDS)


def _digits_first(rest: str) -> str:
    return rest if rest[:1].isdigit() else f"0{rest}"


def _read_quoted(source: Source, write: Write, dialect: Dialect) -> Reading[bool]:
    """Read a string if one comes next."""
    char = yield from source.peek()
    if char in PLAIN:
        source.at += 1
        is_python = dialect.is_python or char == "'"
        if dialect.is_python and (yield from source.take(char * 2)):
            yield from read_long_string(source, write, char * 3)
        else:
            yield from read_string(source, write, char, is_python=is_python)
        return True
    if dialect.quote and (yield from source.take(dialect.quote)):
        write('"')
        yield from read_raw(source, lambda text: write(encoded_inside(text)), dialect.quote)
        write('"')
        return True
    return False
