"""Replies of several servers, byte by byte, and a server that gives them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from app.bench.endpoint import Endpoint, endpoint

USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}


def chunk(content: str | None = None, reason: str | None = None, **fields: object) -> bytes:
    """One event of a stream."""
    delta = {} if content is None else {"content": content}
    choices = [{"delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
LAST = chunk(None, "length")
COUNTED = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
TEXT_EVENTS = b"".join([ROLE, b": keep-alive\n\n", chunk("Wörter"), chunk(" und"), chunk(" mehr")])
BODY = TEXT_EVENTS + LAST + COUNTED + DONE


def with_length(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def until_closed(body: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    """Chunks that have nothing to do with the events; the last has a trailer."""
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    framed = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\nX-Trailer: data:\r\n\r\n"


def error(status: str, message: str) -> bytes:
    return with_length(json.dumps({"error": {"message": message}}).encode(), status)


@asynccontextmanager
async def replying(reply: Callable[[bytes], bytes]) -> AsyncGenerator[Endpoint]:
    """A server on this machine whose replies are bytes chosen by the request's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), b":0")
            writer.write(reply(head + await reader.readexactly(int(length.partition(b":")[2]))))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=10)
