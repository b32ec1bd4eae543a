"""How a response that is being made becomes an HTTP reply."""

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.context import RequestContext
from app.api.replies import COMMENT, EventChannel, json_reply, while_connected
from app.api.responses.desk import ResponseDesk
from app.api.responses.event_log import EventLog
from app.core.record import RequestRecord
from app.errors import ServerError
from app.schemas.responses import ResponseRequest


class ResponseReply(Response):
    """Makes a response: in one piece, as a stream, or in the background, where it is made though the client leaves."""

    def __init__(self, desk: ResponseDesk, body: ResponseRequest, context: RequestContext) -> None:
        super().__init__()
        self._desk = desk
        self._body = body
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self._context.record
        if self._body.background:
            reply = await self._begin(record)
        elif self._body.stream:
            await self._stream(receive, send)
            return
        else:
            async with while_connected(receive):
                reply = json_reply(await self._make(record))
        await reply(scope, receive, send)

    async def _make(self, record: RequestRecord) -> bytes:
        with self._desk.hold(self._body) as held:
            making = await self._desk.prepare(self._body, record)
            await self._desk.make(making, held, _write_nothing)
            return making.response

    async def _begin(self, record: RequestRecord) -> Response:
        with self._desk.hold(self._body) as held:
            own = record.go_on_alone()
            held.callback(own.end)
            making = await self._desk.prepare(self._body, own)
            response = making.response
            log = await self._desk.start(making, held)
        return FollowReply(log, -1, self._context.heartbeat_s) if self._body.stream else json_reply(response)

    async def _stream(self, receive: Receive, send: Send) -> None:
        record = self._context.record
        async with while_connected(receive):
            with self._desk.hold(self._body) as held:
                making = await self._desk.prepare(self._body, record)
                channel = EventChannel(send, making.stream.heartbeat)
                async with channel.kept_alive(self._context.heartbeat_s):
                    try:
                        await self._desk.make(making, held, channel.write)
                    except ServerError as error:
                        if not channel.is_open:
                            raise
                        record.error = error
                        await channel.write(making.end())
        await channel.close()


class FollowReply(Response):
    """Streams the events of a response in the background, from a number on."""

    def __init__(self, log: EventLog, after: int, heartbeat_s: float) -> None:
        super().__init__()
        self._log = log
        self._after = after
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An event of its own would have no number that others do not have.
        channel = EventChannel(send, lambda: COMMENT)
        async with while_connected(receive), channel.kept_alive(self._heartbeat_s):
            async for frames in self._log.follow(self._after):
                await channel.write(frames)
            await channel.write(b"")
        await channel.close()


async def _write_nothing(_frames: bytes) -> None:
    """A reply in one piece has no use for the events before."""
