"""How long to wait before something that failed is tried again, and when it is better left alone for a while."""

import time

_FIRST_S = 0.2
_LONGEST_S = 300.0
# What ran this long has earned a fresh start.
_STABLE_S = 60.0
_MOST_FAILURES = 5


class Backoff:
    """Pauses that grow from one failure to the next. Owned by the event loop's thread."""

    def __init__(self, stable_s: float = _STABLE_S) -> None:
        self._stable_s = stable_s
        self._num_failures = 0
        self._until = 0.0
        self._began_at: float | None = None
        # When it ended that had begun, until it begins again.
        self._down_since: float | None = None

    @property
    def rest_s(self) -> float:
        """Seconds until the next try is due, 0 when it is."""
        return max(0.0, self._until - time.monotonic())

    @property
    def num_failures(self) -> int:
        """Failures in a row."""
        return 0 if self._has_run_well() else self._num_failures

    @property
    def is_hopeless(self) -> bool:
        """Whether the next failure is one too many to be tried again at once."""
        return self.num_failures + 1 >= _MOST_FAILURES

    def begin(self) -> float | None:
        """It runs now; gives the seconds since it failed, None where it did not run before that."""
        self._began_at = now = time.monotonic()
        down_since, self._down_since = self._down_since, None
        return None if down_since is None else now - down_since

    def fail(self) -> float:
        """Note a failure; gives the seconds until the next try."""
        if self._began_at is not None:
            self._down_since = time.monotonic()
        # The exponent is bounded: a thousand failures later it would be no float any more.
        pause_s = min(_FIRST_S * 2 ** min(self.num_failures, 30), _LONGEST_S)
        self._num_failures, self._began_at = self.num_failures + 1, None
        self._until = time.monotonic() + pause_s
        return pause_s

    def reset(self) -> None:
        """It ended as it should: the next failure counts as the first."""
        self._num_failures, self._began_at, self._down_since = 0, None, None
        self._until = 0.0

    def _has_run_well(self) -> bool:
        return self._began_at is not None and time.monotonic() - self._began_at >= self._stable_s
