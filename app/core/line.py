"""Who uses a model and who waits for it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from app.core.admission import Admission
from app.errors import ServerError

# The worker answers them one after the other: two keep it busy, and the others wait here, fairly.
_SHORT_ONES_AT_ONCE = 2


class ModelLine:
    """The requests of one model: those that wait and those that run, and all of them as leases.

    Owned by the event loop's thread.
    """

    def __init__(self, queue_size: int, queue_timeout_s: float, on_lease: Callable[[], None]) -> None:
        self.admission = Admission(queue_size, queue_timeout_s)
        self.num_leases = 0
        self.used_at = time.monotonic()
        self._short = Admission(queue_size, queue_timeout_s)
        self._on_lease = on_lease
        self._is_empty = asyncio.Event()

    @property
    def num_active(self) -> int:
        """Requests that run."""
        return self.admission.num_active + self._short.num_active

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return self.admission.num_waiting + self._short.num_waiting

    def open(self, num_slots: int) -> None:
        """Let requests run."""
        self.admission.open(num_slots)
        self._short.open(_SHORT_ONES_AT_ONCE)

    def close(self) -> None:
        """Let nobody new run; those who run or wait are not touched."""
        self.admission.close()
        self._short.close()

    def fail_waiting(self, error: ServerError) -> None:
        """End every wait with `error`."""
        self.admission.fail_waiting(error)
        self._short.fail_waiting(error)

    @contextmanager
    def lease(self) -> Generator[None]:
        """Use the model, waiting included."""
        self.num_leases += 1
        self._touch()
        try:
            yield
        finally:
            self.num_leases -= 1
            self._touch()

    @asynccontextmanager
    async def slot(
        self, client: str, longest_wait_s: float | None = None, *, is_short: bool = False
    ) -> AsyncGenerator[None]:
        """See `Admission.slot`; who is short, asking for no more than tokens or voices, waits for no generation."""
        admission = self._short if is_short else self.admission
        try:
            async with admission.slot(client, longest_wait_s):
                yield
        finally:
            if not self.num_active:
                self._is_empty.set()

    async def drained(self) -> None:
        """Wait until nothing runs."""
        while self.num_active:
            self._is_empty.clear()
            await self._is_empty.wait()

    def _touch(self) -> None:
        self.used_at = time.monotonic()
        self._on_lease()
