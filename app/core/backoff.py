"""How long to wait before something that failed is tried again."""

import time

_FIRST_S = 0.2
_LONGEST_S = 30.0


class Backoff:
    """Pauses that grow from one failure to the next. Owned by the event loop's thread."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_S
        self._until = 0.0

    @property
    def rest_s(self) -> float:
        """Seconds until the next try is due, 0 when it is."""
        return max(0.0, self._until - time.monotonic())

    def fail(self) -> float:
        """Note a failure; gives the seconds until the next try."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_S)
        self._until = time.monotonic() + pause_s
        return pause_s

    def reset(self) -> None:
        """It went well for long enough: the next failure counts as the first."""
        self._pause_s = _FIRST_S
        self._until = 0.0
