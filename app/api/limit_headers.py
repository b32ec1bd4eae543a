"""What is left of a key's allowance, in the headers of each protocol."""

import math
import time
from datetime import UTC, datetime, timedelta

from app.core.allowance import Allowance, Bucket

OPENAI_NAMES = tuple(
    f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


def openai_limit_headers(allowance: Allowance) -> dict[str, str]:
    """As OpenAI names them; a reset is the time until nothing will have been used, such as 1m30s."""
    now = time.monotonic()
    return {
        f"x-ratelimit-{what}-{unit}": value
        for unit, bucket in _buckets(allowance).items()
        for what, value in (
            ("limit", str(bucket.limit)),
            ("remaining", _remaining(bucket, now)),
            ("reset", _as_duration(bucket.wait_s(bucket.limit, now))),
        )
    }


def anthropic_limit_headers(allowance: Allowance) -> dict[str, str]:
    """As Anthropic names them; a reset is the moment when nothing will have been used, as RFC 3339 writes it."""
    now, moment = time.monotonic(), datetime.now(UTC)
    return {
        f"anthropic-ratelimit-{unit}-{what}": value
        for unit, bucket in _buckets(allowance).items()
        for what, value in (
            ("limit", str(bucket.limit)),
            ("remaining", _remaining(bucket, now)),
            ("reset", _as_moment(moment + timedelta(seconds=bucket.wait_s(bucket.limit, now)))),
        )
    }


def _buckets(allowance: Allowance) -> dict[str, Bucket]:
    both = {"requests": allowance.requests, "tokens": allowance.tokens}
    return {unit: bucket for unit, bucket in both.items() if bucket is not None}


def _remaining(bucket: Bucket, now: float) -> str:
    return str(max(0, math.floor(bucket.level(now))))


def _as_duration(seconds: float) -> str:
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _as_moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
