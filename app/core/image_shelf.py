"""Images that clients come back for: kept in memory for an hour under names that cannot be guessed."""

import secrets
import time
from dataclasses import dataclass

LIFE_S = 3600.0
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class KeptImage:
    """A file and when it goes, in `time.monotonic()` seconds."""

    data: bytes
    format: str
    expires_at: float


class ImageShelf:
    """The newest images, no more than fit. Owned by the event loop's thread."""

    def __init__(self, life_s: float = LIFE_S, max_bytes: int = _MAX_BYTES) -> None:
        self._life_s = life_s
        self._max_bytes = max_bytes
        self._num_bytes = 0
        # In the order they came, which is that of their ends.
        self._images: dict[str, KeptImage] = {}

    def put(self, data: bytes, file_format: str) -> str:
        """Keep an image; gives its name. The oldest make room."""
        self._drop_expired()
        while self._images and self._num_bytes + len(data) > self._max_bytes:
            self._drop(next(iter(self._images)))
        name = secrets.token_urlsafe(24)
        self._images[name] = KeptImage(data, file_format, time.monotonic() + self._life_s)
        self._num_bytes += len(data)
        return name

    def get(self, name: str) -> KeptImage | None:
        """The image of that name while it is kept."""
        self._drop_expired()
        return self._images.get(name)

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._images and next(iter(self._images.values())).expires_at <= now:
            self._drop(next(iter(self._images)))

    def _drop(self, name: str) -> None:
        self._num_bytes -= len(self._images.pop(name).data)
