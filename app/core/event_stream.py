"""The events of one running request, on their way from its worker to whoever answers the client."""

import asyncio
from collections.abc import Callable

from app.core import failures
from app.core.events import Event, Failed, LastEvent
from app.errors import ServerError


class EventStream:
    """An async iterator of batches: each `async for` step gives all events that arrived since the last one.

    Owned by the event loop's thread. It ends after a `LastEvent`, or raises the error it was failed with.
    """

    __slots__ = ("_buffer", "_cancel", "_error", "_waiter", "id", "is_over")

    def __init__(self, stream_id: int, cancel: Callable[[int], None]) -> None:
        self.id = stream_id
        self.is_over = False
        self._cancel = cancel
        self._buffer: list[Event] = []
        self._error: ServerError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, event: Event) -> None:
        """Take an event from the worker; events after the last one are dropped."""
        if self.is_over:
            return
        self.is_over = isinstance(event, LastEvent)
        if isinstance(event, Failed):
            self._error = failures.from_event(event)
        else:
            self._buffer.append(event)
        self._wake()

    def fail(self, error: ServerError) -> None:
        """End the stream with `error`, and the work behind it; what was not read yet is still given first."""
        if not self.is_over:
            self.is_over = True
            self._error = error
            self._cancel(self.id)
            self._wake()

    def close(self) -> None:
        """Nobody reads any further: end the work behind the stream if there is any left."""
        if not self.is_over:
            self.is_over = True
            self._cancel(self.id)

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> list[Event]:
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self.is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        batch, self._buffer = self._buffer, []
        return batch

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
