"""What happens to a model that nobody uses for a while."""

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls `then`, with the reason, when it has not been stopped for `timeout_s`; 0 for never.

    Owned by the event loop's thread.
    """

    def __init__(self, timeout_s: float, then: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now on."""
        self.stop()
        if self._timeout_s:
            why = f"not used for {self._timeout_s:g} s"
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._then, why)

    def stop(self) -> None:
        """Forget the time that has passed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
