"""Text that is still coming, read from the front; what is not there yet is waited for.

Readers are generators that yield where they need more text, so that what they read does not depend on how it was cut.
"""

import re
from collections.abc import Generator, Iterable
from typing import Final, TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]

SPACE: Final = " \t\r\n"
_SPACES: Final = re.compile(r"[ \t\r\n]+")


class Broken(Exception):
    """What was read cannot be what it was taken for."""


class Cut(Exception):
    """The text has ended where it must go on."""


class Source:
    """The text so far that has not been read, with as much of what was read as may have to be read again.

    Not thread-safe: it belongs to the thread of its reader.
    """

    def __init__(self, special: frozenset[str] = frozenset()) -> None:
        self.special = special
        self.text = ""
        self.at = 0
        self.is_ended = False
        self._start = 0
        self._kept: list[str] | None = None
        self._mark = 0
        self._tokens: set[int] = set()
        self._tokens_in: dict[str, tuple[int, ...]] = {}

    @property
    def place(self) -> int:
        """Where in the raw text the next character is."""
        return self._start + self.at

    def push(self, text: str, *, is_special: bool = False) -> None:
        """Take more text; `is_special` says that it is one special token."""
        if is_special:
            self._tokens.add(self._start + len(self.text))
        self._trim()
        self.text += text

    def pass_by(self, text: str) -> int:
        """Read a text that comes while nothing waits to be read; gives its place."""
        place = self._start + self.at
        self._start, self.text, self.at = place + len(text), "", 0
        return place

    def mark(self) -> None:
        """Keep what is read from here on, for `rewind`."""
        self._kept = None
        self._trim()
        self._kept, self._mark = [], self._start

    def rewind(self, place: int) -> None:
        """Go back to a place that is not before the mark."""
        self.text = "".join([*(self._kept or ()), self.text])
        self._start, self._kept = self._mark, []
        self.at = place - self._mark

    def read_since_mark(self) -> str:
        """What has been read since the mark."""
        return "".join([*(self._kept or ()), self.text[: self.at]])

    def release(self) -> None:
        """Keep no longer what has been read."""
        self._kept = None

    def peek(self) -> Reading[str]:
        """The next character. Errors: Cut."""
        while self.at >= len(self.text):
            if self.is_ended:
                raise Cut
            yield
        return self.text[self.at]

    def skip_space(self) -> Reading[str]:
        """Pass white space; gives the character after it, nothing at the end."""
        while True:
            if found := _SPACES.match(self.text, self.at):
                self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_ended:
                return ""
            yield

    def take(self, marker: str) -> Reading[bool]:
        """Read a marker if it comes next."""
        if is_next := (yield from self.sees(marker)):
            self.at += len(marker)
        return is_next

    def sees(self, marker: str, ahead: int = 0) -> Reading[bool]:
        """Whether a marker comes next, or `ahead` characters later."""
        while True:
            index = self.at + ahead
            if self.text.startswith(marker, index):
                return self.is_genuine(marker, index)
            if self.is_ended or not marker.startswith(self.text[index : index + len(marker)]):
                return False
            yield

    def match(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Read as many characters as the pattern, a repeated class of characters, goes on for."""
        taken: list[str] = []
        while True:
            if found := pattern.match(self.text, self.at):
                taken.append(found[0])
                self.at = found.end()
            if self.at < len(self.text) or self.is_ended:
                return "".join(taken)
            yield

    def is_genuine(self, marker: str, index: int) -> bool:
        """Whether the special tokens in a marker are such in the text, and not spelled out."""
        if not self.special:
            return True
        return all(self._start + index + offset in self._tokens for offset in self.tokens_in(marker))

    def tokens_in(self, marker: str) -> tuple[int, ...]:
        """Where in a marker there are special tokens, of several at a place the longest."""
        if marker not in self._tokens_in:
            tokens = "|".join(map(re.escape, sorted(self.special, key=len, reverse=True)))
            self._tokens_in[marker] = tuple(found.start() for found in re.finditer(tokens, marker))
        return self._tokens_in[marker]

    def _trim(self) -> None:
        if not self.at:
            return
        if self._kept is not None:
            self._kept.append(self.text[: self.at])
        self.text = self.text[self.at :]
        self._start += self.at
        self.at = 0


class Markers:
    """Fixed texts, to be found in a text of which more may come."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts: Final = tuple(sorted(set(texts), key=len, reverse=True))
        self._whole: Final = re.compile("|".join(map(re.escape, self.texts)))
        # A marker, or at the very end as much of it as is there.
        self.begun: Final = re.compile("|".join(map(_begun, self.texts)) or r"(?!)")
        self._beginnings: Final = frozenset(
            one for one in self.texts if any(other != one and other.startswith(one) for other in self.texts)
        )

    def find(self, source: Source) -> tuple[int, str]:
        """The index of the first marker and the marker, nothing for one of which only the beginning is there.

        The index is the length of the text where there is none.
        """
        if not self.texts:
            return len(source.text), ""
        pattern = self._whole if source.is_ended else self.begun
        at = source.at
        while found := pattern.search(source.text, at):
            marker = found[0]
            is_last = found.end() == len(source.text) and not source.is_ended
            if marker not in self.texts or (is_last and marker in self._beginnings):
                return found.start(), ""
            if source.is_genuine(marker, found.start()):
                return found.start(), marker
            at = found.start() + 1
        return len(source.text), ""


def _begun(marker: str) -> str:
    pattern = re.escape(marker[-1])
    for char in reversed(marker[:-1]):
        pattern = rf"{re.escape(char)}(?:{pattern}|\Z)"
    return pattern
