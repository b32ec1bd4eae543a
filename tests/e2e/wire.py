"""HTTP as clients speak it that misbehave: a request on a connection of its own, read piece by piece or not at all."""

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, Self

from tests.e2e.processes import ServerProcess

_PATIENCE_S = 40.0
CHAT = "/v1/chat/completions"
# The tiny model's end token is kept away: such a stream ends when somebody ends it.
END_TOKEN = 2


def chat(text: str = "the quick brown fox", /, **fields: object) -> dict[str, Any]:
    """A short, greedy chat request."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}


def endless(text: str = "the quick brown fox", /, **fields: object) -> dict[str, Any]:
    """A streamed chat request that runs until it is ended."""
    own = {"stream": True, "max_tokens": 120_000, "temperature": 1, "seed": 1, "logit_bias": {str(END_TOKEN): -100}}
    return chat(text, **own | fields)


class Call:
    """A request that was sent; leaving the block closes its connection."""

    def __init__(
        self, server: ServerProcess, body: object, path: str = CHAT, headers: dict[str, str] | None = None
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_S)
        self._connection.request("POST", path, json.dumps(body), headers or {})
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    @property
    def response(self) -> http.client.HTTPResponse:
        """The reply, waited for if need be."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    @property
    def status(self) -> int:
        return self.response.status

    def header(self, name: str) -> str | None:
        return self.response.getheader(name)

    def json(self) -> Any:
        return json.loads(self.response.read())

    def events(self) -> Iterator[str]:
        """The `data:` lines of a stream as they come, until it ends; comments are left out."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").rstrip(b"\n").decode()

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The JSON of the events, without [DONE]."""
        for event in self.events():
            if event != "[DONE]":
                yield json.loads(event)

    def read_until_text(self) -> Self:
        """Read until the answer has begun."""
        for chunk in self.chunks():
            assert "error" not in chunk, chunk
            if chunk["choices"][0]["delta"].get("content"):
                return self
        raise AssertionError("the stream ended without a text")

    def hang_up(self, *, abruptly: bool = False) -> None:
        """Close the connection: in order, or with a reset."""
        if abruptly and self._connection.sock is not None:
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()
        if self._response is not None:
            self._response.close()


def exchange(server: ServerProcess, data: bytes) -> bytes:
    """Send bytes as they are and give all that comes back until the server closes or says nothing more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received
