"""Between a body, whose translation waits for nothing, and the media that it refers to."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from app.api.media.reference import Reference

ResultT = TypeVar("ResultT")
# As `MediaReader.read`.
Read = Callable[[list[Reference]], Awaitable[Mapping[Reference, bytes]]]


class Attachments:
    """The media of one request. Owned by the event loop's thread."""

    def __init__(self, found: Mapping[Reference, bytes] | None = None) -> None:
        self.wanted: list[Reference] = []
        self._found = found or {}

    def take(self, reference: Reference) -> bytes:
        """The bytes of a medium; empty as long as nobody has read them."""
        self.wanted.append(reference)
        return self._found.get(reference, b"")


async def translated(translate: Callable[[Attachments], ResultT], read: Read) -> ResultT:
    """What a translation makes of a body with its media, which are read when all else in the body is right.

    A body that has media is translated twice: to learn what it wants, and when that is there. Errors: InvalidRequest.
    """
    asked = Attachments()
    draft = translate(asked)
    return translate(Attachments(await read(asked.wanted))) if asked.wanted else draft
