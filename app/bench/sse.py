"""Server-sent events out of a body that arrives in pieces.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Gives the data of each event; comments and other fields are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that this piece completes."""
        self._rest += piece
        # A carriage return at the end may be half of a line end.
        end = len(self._rest) - self._rest.endswith(b"\r")
        *lines, last = _LINE_END.split(self._rest[:end])
        self._rest = last + self._rest[end:]
        return [data for line in lines if (data := self._take(line)) is not None]

    def close(self) -> list[bytes]:
        """The data of an event that the body's end has cut off before its empty line, as some servers do."""
        lines = [self._rest.removesuffix(b"\r"), b""]
        self._rest = b""
        return [data for line in lines if (data := self._take(line)) is not None]

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
