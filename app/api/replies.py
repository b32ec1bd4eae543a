"""How a running request becomes an HTTP reply: in one piece, or as a stream of server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from fastapi import Response
from loguru import logger
from starlette.types import Receive, Scope, Send

from app.core.event_stream import EventStream
from app.core.events import Event
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import Request
from app.errors import ClientGone, InternalError, ServerError

# Until the first event a failure has a real HTTP status. A client that waits longer than this in the queue gets its
# headers and heartbeats instead, so that it does not give up.
_FIRST_EVENT_GRACE_S = 10.0
# What fills a silence where the protocol has no event for it.
COMMENT = b": keep-alive\n\n"
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to a model."""

    registry: Registry
    model: str | None
    request: Request
    record: RequestRecord

    def run(self) -> AbstractAsyncContextManager[EventStream]:
        """See `Work.run`."""
        return self.registry.run(self.model, self.request, self.record)


class Work(Protocol):
    """What a reply is made of: a `Call`, or several that are answered as one."""

    @property
    def record(self) -> RequestRecord:
        """The HTTP request's own."""
        ...

    def run(self) -> AbstractAsyncContextManager[AsyncIterator[list[Event]]]:
        """See `Registry.run`."""
        ...


class StreamEncoder(Protocol):
    """Turns events into the bytes of one protocol's stream."""

    def encode(self, events: Sequence[Event]) -> bytes:
        """The frames of a batch of events, possibly none; those of the last event end the stream."""
        ...

    def error(self, error: ServerError) -> bytes:
        """The frames that end a stream that failed after it began."""
        ...

    def heartbeat(self) -> bytes:
        """The frame that fills a silence, also before the first event."""
        ...


class UnaryReply(Response):
    """Runs the call to its end and replies in one piece; stops it when the client leaves."""

    def __init__(
        self, call: Work, encode: Callable[[list[Event]], bytes], media_type: str = "application/json"
    ) -> None:
        super().__init__()
        self._call = call
        self._encode = encode
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._call
        events: list[Event] = []
        async with while_connected(receive), call.run() as stream:
            async for batch in stream:
                call.record.note(batch)
                events += batch
        await Response(self._encode(events), media_type=self._media_type)(scope, receive, send)


class StreamReply(Response):
    """Runs the call and streams its events; stops it when the client leaves."""

    def __init__(self, call: Work, encoder: StreamEncoder, heartbeat_s: float) -> None:
        super().__init__()
        self._call = call
        self._encoder = encoder
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._call
        channel = EventChannel(send, self._encoder.heartbeat)
        async with while_connected(receive), channel.kept_alive(self._heartbeat_s):
            try:
                async with call.run() as stream:
                    async for batch in stream:
                        call.record.note(batch)
                        await channel.write(self._encoder.encode(batch))
            except ServerError as error:
                if not channel.is_open:
                    raise
                call.record.error = error
                await channel.write(self._encoder.error(error))
            except Exception:
                if not channel.is_open:
                    raise
                logger.exception("request {}: the stream failed", call.record.request_id)
                call.record.error = InternalError()
                await channel.write(self._encoder.error(call.record.error))
        await channel.close()


class EventChannel:
    """The response of a stream: opened by the first write or by a long wait, kept alive by heartbeats."""

    def __init__(self, send: Send, heartbeat: Callable[[], bytes]) -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._last_write = time.monotonic()
        self.is_open = False

    async def write(self, data: bytes) -> None:
        """Send frames; the first call also sends the status line."""
        if not self.is_open:
            self.is_open = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        if data:
            self._last_write = time.monotonic()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def close(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    @asynccontextmanager
    async def kept_alive(self, heartbeat_s: float) -> AsyncGenerator[None]:
        """Write a heartbeat into every silence of `heartbeat_s` while the block runs."""
        task = asyncio.create_task(self._beat(heartbeat_s))
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self, heartbeat_s: float) -> None:
        while True:
            patience_s = heartbeat_s if self.is_open else max(heartbeat_s, _FIRST_EVENT_GRACE_S)
            if (left_s := self._last_write + patience_s - time.monotonic()) > 0:
                # Not longer than a heartbeat: the stream may open meanwhile, and patience is shorter then.
                await asyncio.sleep(min(left_s, heartbeat_s))
            else:
                await self.write(self._heartbeat())


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the block when the client hangs up. Errors: ClientGone."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("this needs a running task")
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if is_gone and task.uncancel() == 0:
            raise ClientGone("The client hung up.") from None
        raise
    finally:
        watcher.cancel()


def json_reply(body: bytes) -> Response:
    """A reply of encoded JSON."""
    return Response(body, media_type="application/json")
