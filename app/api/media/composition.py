"""A message's text and media, put together part by part."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from app.api.media.attachments import Attachments
from app.api.media.reference import Reference
from app.core.conversation import Media

Detail = Literal["auto", "low", "high"]


@dataclass(slots=True)
class Composition:
    """What a message says and shows; `separator` stands between its texts. Owned by the event loop's thread."""

    attachments: Attachments
    separator: str = ""
    text: str = ""
    media: list[Media] = field(default_factory=list[Media])

    def add_text(self, text: str) -> None:
        """Append a text."""
        self.text += self.separator + text if self.text and text else text

    def add_media(self, reference: Reference, detail: str | None = None) -> None:
        """Append a medium; `detail` is how a protocol calls it, of which `original` is no lesser than the highest."""
        level: Detail = "low" if detail == "low" else "high" if detail in ("high", "original") else "auto"
        data = self.attachments.take(reference)
        self.media.append(Media(reference.kind, data, len(self.text), level, reference.param))


def moved(media: Iterable[Media], by: int) -> tuple[Media, ...]:
    """Media of a text before which another of `by` characters was put."""
    return tuple(msgspec.structs.replace(one, position=one.position + by) for one in media)
