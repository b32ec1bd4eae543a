"""The short texts with a name in them that come before arguments and values."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from app.text.source import SPACE, Broken, Reading, Source

_SLOT: Final = re.compile(r"\{(name|key|index|id|kind)\}")
_SLOTS: Final = {
    "name": re.compile(r"[\w.\-/]+"),
    "key": re.compile(r"[^<>\"\n]+"),
    "index": re.compile(r"\d+"),
    "id": re.compile(r"[\w.\-]+"),
    "kind": re.compile(r"\w+"),
}
_MAX_SLOT: Final = 256
_SPACES: Final = re.compile(r"[ \t\r\n]+")


@lru_cache(maxsize=512)
def template_parts(template: str) -> tuple[str, ...]:
    """The texts of a template and, between them, the names of its slots: text, slot, text, slot, … text."""
    return tuple(_SLOT.split(template))


def leading_text(template: str) -> str:
    """What stands before the first slot, without the white space around it."""
    return template_parts(template)[0].strip(SPACE)


def read_header(source: Source, templates: tuple[str, ...]) -> Reading[Mapping[str, str]]:
    """Read what the first fitting template says; gives what stands in its slots.

    Between its texts and slots, and where its texts have white space, there may be any or none. Errors: Broken, Cut.
    """
    place = source.place
    for template in templates[:-1]:
        try:
            return (yield from _read(source, template))
        except Broken:
            source.rewind(place)
    return (yield from _read(source, templates[-1]))


def _read(source: Source, template: str) -> Reading[Mapping[str, str]]:
    slots: dict[str, str] = {}
    for index, part in enumerate(template_parts(template)):
        yield from source.skip_space()
        if index % 2:
            slots[part] = yield from _read_slot(source, _SLOTS[part])
        elif part:
            yield from _read_text(source, part)
    return slots


def _read_text(source: Source, text: str) -> Reading[None]:
    for index, part in enumerate(_SPACES.split(text)):
        if index:
            yield from source.skip_space()
        if part and not (yield from source.take(part)):
            raise Broken


def _read_slot(source: Source, pattern: re.Pattern[str]) -> Reading[str]:
    text = yield from source.match(pattern)
    if not text or len(text) > _MAX_SLOT:
        raise Broken
    yield from source.peek()
    return text.rstrip(SPACE)
