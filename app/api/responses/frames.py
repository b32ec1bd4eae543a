"""Server-sent events with sequence numbers."""

import msgspec

_json = msgspec.json.Encoder().encode


class FrameWriter:
    """Numbers one stream's events from 0."""

    def __init__(self) -> None:
        self._next_number = 0

    def frame(self, kind: str, **fields: object) -> bytes:
        """An event of a type, with its other fields."""
        return _frame(kind, _json({"type": kind, "sequence_number": self._number(), **fields}))

    def lifecycle(self, kind: str, response: bytes) -> bytes:
        """An event that brings the whole response, encoded already."""
        return _frame(
            kind, b'{"type":"%s","sequence_number":%d,"response":%s}' % (kind.encode(), self._number(), response)
        )

    def delta(self, prepared: bytes, text: str, more: bytes = b"") -> bytes:
        """An event that brings a piece of text; `prepared` is from `delta_start`, `more` begins with a comma."""
        return b'%s%s%s,"sequence_number":%d}\n\n' % (prepared, _json(text), more, self._number())

    def _number(self) -> int:
        number = self._next_number
        self._next_number = number + 1
        return number


def delta_start(kind: str, **fields: object) -> bytes:
    """What such an event is before its text: made once for all events of an item."""
    return _frame(kind, _json({"type": kind, **fields}))[:-3] + b',"delta":'


def _frame(kind: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
