"""Events to image replies and stream events."""

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from app.api.openai_errors import error_json
from app.api.replies import COMMENT
from app.core.events import Event, ImageMade, ImagePreview, ImageProgress, ImagesFinished, ImageUsage
from app.core.requests import ImageEffort, ImageFormat
from app.errors import ServerError

# Gives the URL of a file.
Shelve = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class ImageReply:
    """One reply's time and what it says of all its images; `shelve` where they are sent as URLs."""

    file_format: ImageFormat
    quality: ImageEffort
    shelve: Shelve | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, events: list[Event]) -> bytes:
        """The reply in one piece."""
        made = [event for event in events if isinstance(event, ImageMade)]
        match events:
            case [*_, ImagesFinished(usage)] if made:
                shown = [
                    {"url": self.shelve(one.data)} if self.shelve else {"b64_json": _base64(one.data)} for one in made
                ]
                about = self.about(made[0].size)
                return msgspec.json.encode({"created": self.created, "data": shown, **about, "usage": _usage(usage)})
            case _:
                raise ValueError("an image request ended without its images")

    def about(self, size: tuple[int, int]) -> dict[str, object]:
        """What is said of an image beside itself."""
        return {
            "size": f"{size[0]}x{size[1]}",
            "quality": self.quality,
            "background": "opaque",
            "output_format": self.file_format,
        }


class ImageStream:
    """One reply's encoding in events; `prefix` is what their types begin with."""

    def __init__(self, reply: ImageReply, prefix: Literal["image_generation", "image_edit"], request_id: str) -> None:
        self._reply = reply
        self._prefix = prefix
        self._request_id = request_id

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(map(self._frame, events))

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`."""
        return b"event: error\ndata: " + error_json(error, self._request_id) + b"\n\n"

    def heartbeat(self) -> bytes:
        """See `StreamEncoder.heartbeat`."""
        return COMMENT

    def _frame(self, event: Event) -> bytes:
        match event:
            case ImageProgress(image, step, num_steps):
                # OpenAI has no event for it: a comment is passed over by every client, and read by people.
                return f": image {image + 1}, step {step} of {num_steps}\n\n".encode()
            case ImagePreview(_, number, data, size):
                return self._event("partial_image", data, size, {"partial_image_index": number})
            case ImageMade(_, data, size, usage):
                return self._event("completed", data, size, {"usage": _usage(usage)})
            case _:
                return b""

    def _event(self, name: str, data: bytes, size: tuple[int, int], more: dict[str, object]) -> bytes:
        kind = f"{self._prefix}.{name}"
        body = {"type": kind, "b64_json": _base64(data), "created_at": self._reply.created}
        return b"event: %s\ndata: %s\n\n" % (
            kind.encode(),
            msgspec.json.encode(body | self._reply.about(size) | more),
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _usage(usage: ImageUsage) -> dict[str, object]:
    num_in = usage.text_tokens + usage.source_tokens
    return {
        "input_tokens": num_in,
        "input_tokens_details": {"text_tokens": usage.text_tokens, "image_tokens": usage.source_tokens},
        "output_tokens": usage.image_tokens,
        "total_tokens": num_in + usage.image_tokens,
    }
