"""A stream's events, kept for who reads them later or once more."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from app.errors import InvalidRequest

_FRAME_END = b"\n\n"


class EventLog:
    """The events of one response, numbered from 0; the oldest go when they are too many.

    Owned by the event loop's thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._first_number = 0
        self._more = asyncio.Event()
        self._is_closed = False
        self.num_bytes = 0

    async def write(self, data: bytes) -> None:
        """Keep whole frames."""
        # There is no line break within a frame's JSON.
        for frame in data.split(_FRAME_END)[:-1]:
            self._frames.append(frame + _FRAME_END)
            self.num_bytes += len(frame) + len(_FRAME_END)
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= len(self._frames.popleft())
            self._first_number += 1
        self._wake()

    def close(self) -> None:
        """There are no more."""
        self._is_closed = True
        self._wake()

    async def follow(self, after: int = -1) -> AsyncIterator[bytes]:
        """The events with higher numbers than `after`, those to come too.

        Errors: InvalidRequest when some are not kept any more.
        """
        number = after + 1
        while True:
            if number < self._first_number:
                raise InvalidRequest(
                    f"The events up to {self._first_number - 1} are not kept any more; get the response without "
                    "'stream'.",
                    param="starting_after",
                )
            # From a deque's end, single ones are cheap to take.
            if new := [self._frames[index] for index in range(number - self._first_number, len(self._frames))]:
                number += len(new)
                yield b"".join(new)
            elif self._is_closed:
                return
            else:
                await self._more.wait()

    def _wake(self) -> None:
        """Whoever waits goes on; who comes later waits for the next."""
        self._more.set()
        self._more = asyncio.Event()
