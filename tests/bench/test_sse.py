"""The events of a body, however it was cut."""

import pytest

from app.bench.sse import EventReader

# As servers send them: plain, with comments and other fields, CRLF, old Mac line ends, no space, several data lines.
BODIES = [
    (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
    (b": keep-alive\n\nevent: x\nid: 7\ndata: a\n\n: more\ndata: b\n\n", [b"a", b"b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
    (b"data:a\n\ndata:  b\n\ndata\n\n", [b"a", b" b", b""]),
    (b"data: a\ndata: b\n\n\n\n", [b"a\nb"]),
    ("data: é \N{FOX FACE}\n\n".encode(), ["é \N{FOX FACE}".encode()]),
]


def read(*pieces: bytes) -> list[bytes]:
    reader = EventReader()
    return [data for piece in pieces for data in reader.feed(piece)] + reader.close()


@pytest.mark.parametrize(("body", "events"), BODIES)
def test_events_are_the_same_wherever_the_body_is_cut(body: bytes, events: list[bytes]) -> None:
    assert read(body) == events
    assert read(*(body[i : i + 1] for i in range(len(body)))) == events
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            assert read(body[:first], body[first:second], body[second:]) == events


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n") == []
    assert reader.feed(b"\nda") == [b"a"]


@pytest.mark.parametrize("body", [b"data: a\n", b"data: a", b"data: a\r"])
def test_the_end_of_the_body_ends_an_event(body: bytes) -> None:
    reader = EventReader()
    assert reader.feed(body) == []
    assert reader.close() == [b"a"]
    assert reader.close() == []
