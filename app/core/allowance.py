"""What an API key may still use: requests and tokens a minute, and requests at once."""

import math

from app.errors import RateLimited
from app.settings import AccessKey

_MINUTE_S = 60.0
# When a request of the same key ends is not known.
_BUSY_RETRY_S = 1.0


class Bucket:
    """So many a minute: full at first, filled evenly, and overdrawn by what is known only afterwards.

    Times are `time.monotonic()` seconds. Owned by the event loop's thread.
    """

    __slots__ = ("_level", "_seen_at", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._level = float(limit)
        self._seen_at = -math.inf

    def level(self, now: float) -> float:
        """What is left; below zero where more was used than there was."""
        self._level = min(self.limit, self._level + (now - self._seen_at) * self.limit / _MINUTE_S)
        self._seen_at = now
        return self._level

    def take(self, amount: int, now: float) -> None:
        """Use some, whether there is as much or not."""
        self._level = self.level(now) - amount

    def wait_s(self, level: float, now: float) -> float:
        """Seconds until so much will be left."""
        return max(0.0, (level - self.level(now)) * _MINUTE_S / self.limit)


class Allowance:
    """The limits of one key and what has been used of them. Owned by the event loop's thread."""

    def __init__(self, key: AccessKey) -> None:
        self.requests = Bucket(key.requests_per_minute) if key.requests_per_minute else None
        self.tokens = Bucket(key.tokens_per_minute) if key.tokens_per_minute else None
        self.num_running = 0
        self._name = key.name
        self._max_concurrency = key.max_concurrency

    def enter(self, now: float) -> None:
        """Let a request begin. Errors: RateLimited; a refused request uses up nothing."""
        if self._max_concurrency is not None and self.num_running >= self._max_concurrency:
            raise RateLimited(
                f"The key '{self._name}' has {self.num_running} requests running, as many as it may; "
                "wait for one to end.",
                retry_after_s=_BUSY_RETRY_S,
            )
        for bucket, unit in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket is not None and (wait_s := bucket.wait_s(1, now)) > 0:
                raise RateLimited(
                    f"The key '{self._name}' has used its {bucket.limit} {unit} a minute; try again in {wait_s:.1f} s.",
                    retry_after_s=wait_s,
                )
        if self.requests is not None:
            self.requests.take(1, now)
        self.num_running += 1

    def spend(self, num_tokens: int, now: float) -> None:
        """Use tokens."""
        if self.tokens is not None:
            self.tokens.take(num_tokens, now)

    def leave(self) -> None:
        """A request that was let in is over."""
        self.num_running -= 1
