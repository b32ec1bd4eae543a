"""How the most recent requests went, in percentiles."""

from collections.abc import Iterable

from app.core.metrics import Figures, Metrics
from app.schemas.health import Percentiles, RecentRequests


def recent_requests(metrics: Metrics, names: Iterable[str]) -> RecentRequests:
    """The figures of the named models' most recent requests, of all these models together."""
    return summarised(metrics.recent(names))


def summarised(recent: list[Figures]) -> RecentRequests:
    """The percentiles of what was measured."""
    return RecentRequests(
        num_requests=len(recent),
        ttft_s=_percentiles(one.ttft_s for one in recent),
        duration_s=_percentiles(one.duration_s for one in recent),
        queue_wait_s=_percentiles(one.queue_wait_s for one in recent),
        tokens_per_s=_percentiles(one.tokens_per_s for one in recent),
    )


def _percentiles(values: Iterable[float | None]) -> Percentiles | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Percentiles(p50=_percentile(known, 50), p95=_percentile(known, 95))


def _percentile(ordered: list[float], percent: int) -> float:
    """The smallest value that at least so many of a hundred are not above."""
    return ordered[-(-len(ordered) * percent // 100) - 1]
