"""The responses that are being made in this process, for a client that waits or in the background."""

import asyncio
from collections import OrderedDict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial

from loguru import logger

from app.api.media.attachments import translated
from app.api.responses.event_log import EventLog
from app.api.responses.kept import conversation_of, read_input
from app.api.responses.making import Making, Workplace, Write
from app.api.responses.order import Order, to_order
from app.core.record import RequestRecord
from app.errors import InternalError, InvalidRequest, QueueFull, ServerError, ShuttingDown
from app.schemas.responses import ResponseRequest

MAX_BACKGROUND = 64
# Of the events of responses in the background: of each, and of those that are done, together.
_LOG_BYTES = 8 * 2**20
_OLD_LOG_BYTES = 64 * 2**20


class ResponseDesk:
    """Owned by the event loop's thread."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.running: dict[str, Making] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logs: OrderedDict[str, EventLog] = OrderedDict()
        self._held_conversations: set[str] = set()

    @contextmanager
    def hold(self, body: ResponseRequest) -> Generator[ExitStack]:
        """Keep others from the conversation of a response until the block is left, unless what it gives is taken over.

        Errors: InvalidRequest when it is held already.
        """
        with ExitStack() as held:
            if (conversation_id := conversation_of(body)) is not None:
                held.enter_context(self._held(conversation_id))
            yield held

    async def prepare(self, body: ResponseRequest, record: RequestRecord) -> Making:
        """A response that can be made. Errors: InvalidRequest, NotFound."""
        await self.place.registry.seek(body.model)
        return Making(self.place, await self.read(body), conversation_of(body), record)

    async def read(self, body: ResponseRequest) -> Order:
        """What a body asks for, with what it continues and its media. Errors: InvalidRequest, NotFound."""
        given = await read_input(self.place.store, body, self.running)
        return await translated(partial(to_order, body, given), self.place.media.read)

    async def make(self, making: Making, held: ExitStack, write: Write) -> None:
        """Make a response and close `held`; `write` takes the events of its stream.

        Errors: ServerError; then the last event has not been written yet.
        """
        self.running[making.id] = making
        try:
            with held:
                await making.run(write)
        finally:
            del self.running[making.id]
        # Who has read this may do with the response what can only be done with those that are done.
        await write(making.end())

    async def start(self, making: Making, held: ExitStack) -> EventLog:
        """Begin to make a response in the background, which takes over `held`. Errors: QueueFull, InternalError."""
        if len(self._tasks) >= MAX_BACKGROUND:
            raise QueueFull(f"{MAX_BACKGROUND} responses are made in the background already; try again later.")
        await making.note()
        if not making.about.is_stored:
            raise InternalError
        log = self._logs[making.id] = EventLog(_LOG_BYTES)
        self._tasks[making.id] = asyncio.create_task(self._make_alone(making, held.pop_all(), log), name=making.id)
        # A task that is cancelled before its first step would not tidy up after itself.
        await asyncio.sleep(0)
        return log

    def log_of(self, response_id: str) -> EventLog:
        """The events of a response in the background. Errors: InvalidRequest when there are none."""
        if (log := self._logs.get(response_id)) is None:
            raise InvalidRequest(
                f"There are no events of '{response_id}': they are kept of responses in the background, and only for a "
                "while. Get it without 'stream'.",
                param="stream",
            )
        return log

    async def cancel(self, response_id: str) -> None:
        """End a response in the background, if it is being made, and wait for its end."""
        if (task := self._tasks.get(response_id)) is not None:
            task.cancel()
            await asyncio.wait([task])

    async def forget(self, response_id: str) -> bool:
        """Keep nothing of a response that is being made; whether there is such a one. A client goes on reading it."""
        making = self.running.get(response_id)
        if making is None or not making.about.is_stored:
            return False
        making.about.is_stored = False
        await self.cancel(response_id)
        self._logs.pop(response_id, None)
        return True

    async def close(self) -> None:
        """End all work in the background; it is kept as having failed."""
        for response_id in self._tasks:
            self.running[response_id].stop_error = ShuttingDown("The server was stopped; try again later.")
        await asyncio.gather(*(self.cancel(response_id) for response_id in list(self._tasks)))

    async def _make_alone(self, making: Making, held: ExitStack, log: EventLog) -> None:
        try:
            await log.write(making.stream.begin())
            await self.make(making, held, log.write)
        except (ServerError, asyncio.CancelledError):
            await log.write(making.end())
        finally:
            log.close()
            del self._tasks[making.id]
            self._drop_old_logs()
        record = making.record
        logger.bind(**record.figures()).info(
            "{} {} in the background: {}", record.request_id, making.id, making.stream.status
        )

    def _drop_old_logs(self) -> None:
        old = [response_id for response_id in self._logs if response_id not in self.running]
        num_bytes = sum(self._logs[response_id].num_bytes for response_id in old)
        for response_id in old:
            if num_bytes <= _OLD_LOG_BYTES:
                return
            num_bytes -= self._logs.pop(response_id).num_bytes

    @contextmanager
    def _held(self, conversation_id: str) -> Generator[None]:
        if conversation_id in self._held_conversations:
            raise InvalidRequest(
                "Another response is being made in this conversation; try again when it is done.",
                param="conversation",
                code="conversation_locked",
            )
        self._held_conversations.add(conversation_id)
        try:
            yield
        finally:
            self._held_conversations.remove(conversation_id)
