"""Work that blocks and may never end, such as a look at a network drive that does not answer."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def run_in_own_thread(work: Callable[[], T], name: str) -> T:
    """As `asyncio.to_thread`, but nobody's turn comes later and no end of the process waits for it. Errors: its own."""
    outcome = Future[T]()
    # Who waits may be cancelled; the thread goes on and tells nobody.
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)
