"""The bounded line in front of a model: who may run, who waits, who is turned away."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.errors import QueueFull, QueueTimeout, ServerError


@dataclass(slots=True)
class AdmissionCounts:
    """What happened to the requests that have left."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0
    timed_out: int = 0
    num_waited: int = 0
    total_wait_s: float = 0.0
    max_wait_s: float = 0.0


class Admission:
    """Slots and a waiting line: first come, first served for one client, turn by turn between clients.

    The number of slots is 0 until the model is ready (`open`) and again while its worker is down (`close`); those who
    wait go on waiting. Owned by the event loop's thread.
    """

    def __init__(self, queue_size: int, queue_timeout_s: float) -> None:
        self.queue_size = queue_size
        self.queue_timeout_s = queue_timeout_s
        self.num_slots = 0
        self.num_active = 0
        # Whoever has been given a slot waits no more, even if it has not noticed yet.
        self.num_waiting = 0
        self.counts = AdmissionCounts()
        self._lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def open(self, num_slots: int) -> None:
        """Let `num_slots` requests run at once."""
        self.num_slots = num_slots
        self._grant()

    def close(self) -> None:
        """Let nobody new run; those who run or wait are not touched."""
        self.num_slots = 0

    def fail_waiting(self, error: ServerError) -> None:
        """End every wait with `error`."""
        for lane in self._lanes.values():
            for waiter in lane:
                if not waiter.done():
                    waiter.set_exception(error)

    @asynccontextmanager
    async def slot(self, client: str, longest_wait_s: float | None = None) -> AsyncGenerator[None]:
        """Hold a slot, waiting for one in `client`'s lane for the queue timeout, or less.

        Errors: QueueFull at once when the line is full, QueueTimeout after waiting too long.
        """
        if self.num_active < self.num_slots and not self.num_waiting:
            self.num_active += 1
        else:
            await self._wait(client, min(self.queue_timeout_s, longest_wait_s or self.queue_timeout_s))
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.counts.cancelled += 1
            raise
        except Exception:
            self.counts.failed += 1
            raise
        else:
            self.counts.completed += 1
        finally:
            self.num_active -= 1
            self._grant()

    async def _wait(self, client: str, timeout_s: float) -> None:
        if self.num_waiting >= self.queue_size:
            self.counts.rejected += 1
            raise QueueFull(
                f"All {self.num_slots} slots are busy and {self.num_waiting} requests wait already; try again later.",
                retry_after_s=self.retry_after_s(),
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane = self._lanes.setdefault(client, deque())
        lane.append(waiter)
        self.num_waiting += 1
        # There is one already where those before have failed and have not noticed yet.
        self._grant()
        since = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            self._give_back(waiter)
            self.counts.timed_out += 1
            raise QueueTimeout(
                f"No slot came free within {timeout_s:g} s; try again later.",
                retry_after_s=self.retry_after_s(),
            ) from None
        except asyncio.CancelledError:
            self._give_back(waiter)
            self.counts.cancelled += 1
            raise
        except ServerError:
            self.counts.failed += 1
            raise
        finally:
            if not _is_granted(waiter):
                self.num_waiting -= 1
            self._leave(client, waiter)
        waited_s = time.monotonic() - since
        self.counts.num_waited += 1
        self.counts.total_wait_s += waited_s
        self.counts.max_wait_s = max(self.counts.max_wait_s, waited_s)

    def _give_back(self, waiter: asyncio.Future[None]) -> None:
        """A slot granted in the very moment of giving up goes to the next one."""
        if _is_granted(waiter):
            self.num_active -= 1
            self._grant()

    def _leave(self, client: str, waiter: asyncio.Future[None]) -> None:
        lane = self._lanes.get(client)
        if lane is not None:
            if waiter in lane:
                lane.remove(waiter)
            if not lane:
                del self._lanes[client]

    def _grant(self) -> None:
        while self.num_active < self.num_slots and (waiter := self._next_waiter()):
            self.num_active += 1
            self.num_waiting -= 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[None] | None:
        for client, lane in self._lanes.items():
            while lane:
                waiter = lane.popleft()
                if not waiter.done():
                    self._lanes.move_to_end(client)
                    return waiter
        return None

    def retry_after_s(self) -> float:
        """A guess at when a slot will be free: a second for every full round of the slots ahead, at least one."""
        return 1.0 + self.num_waiting // max(1, self.num_slots)


def _is_granted(waiter: asyncio.Future[None]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.exception() is None
