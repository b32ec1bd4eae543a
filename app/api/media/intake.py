"""The bytes of a medium as they come, never more of them than there may be."""

from dataclasses import dataclass, field

from app.api.media.reference import Reference
from app.errors import InvalidRequest


@dataclass(slots=True)
class Allowance:
    """How many bytes the media of one request may still have, of `max_bytes`. Owned by the event loop's thread."""

    max_bytes: int
    left_bytes: int


@dataclass(slots=True)
class Intake:
    """One medium that is being read. Owned by the event loop's thread."""

    reference: Reference
    max_bytes: int
    allowance: Allowance
    data: bytearray = field(default_factory=bytearray)

    def expect(self, num_bytes: int) -> None:
        """Refuse so many bytes more, before they are there. Errors: InvalidRequest."""
        if len(self.data) + num_bytes > self.max_bytes:
            raise self.refusal(f"has more than {self.max_bytes} bytes (--max-media-bytes); send a smaller file")
        if num_bytes > self.allowance.left_bytes:
            raise self.refusal(
                f"is too much: all media of a request have {self.allowance.max_bytes} bytes at most"
                " (--max-body-bytes); send fewer or smaller files"
            )

    def add(self, piece: bytes) -> None:
        """Append bytes. Errors: InvalidRequest when there are too many."""
        self.expect(len(piece))
        self.allowance.left_bytes -= len(piece)
        self.data += piece

    def refusal(self, what: str) -> InvalidRequest:
        """See `Reference.refusal`."""
        return self.reference.refusal(what)
