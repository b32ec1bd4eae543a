"""GET /health and GET /v1/queue/stats on the wire: what dashboards and supervisors read."""

from typing import Literal

from pydantic import BaseModel


class ModelHealth(BaseModel):
    """One model's state, `initialized` when it is ready, and why it is not."""

    status: str
    reason: str | None = None


class Health(BaseModel):
    """Healthy when every model is ready or is loaded on demand; `model_id` and `model_status` are the first model's.

    Both are null where models are served as they are found, and none is there.
    """

    status: Literal["ok", "unhealthy"]
    model_id: str | None
    model_status: str | None
    reason: str | None = None
    models: dict[str, ModelHealth]


class Percentiles(BaseModel):
    """What half of the values, and what 95 of 100, are not above."""

    p50: float
    p95: float


class RecentRequests(BaseModel):
    """Of the most recent requests that a model worked on, at most 512 of each; times in seconds.

    None where none of them tells: embeddings have no first token.
    """

    num_requests: int
    ttft_s: Percentiles | None
    duration_s: Percentiles | None
    queue_wait_s: Percentiles | None
    tokens_per_s: Percentiles | None


class QueueStats(BaseModel):
    """Counts are since the server's start; times in seconds.

    `leases` are the requests that use a model, running or waiting; `memory_bytes` is what its worker takes now;
    `idle_s` is the time since a request last came or went.
    """

    running: bool
    queue_size: int
    max_queue_size: int
    active_requests: int
    max_concurrency: int
    completed_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: int
    timed_out_requests: int
    average_wait_s: float
    max_wait_s: float
    worker_restarts: int
    loads: int
    leases: int
    memory_bytes: int
    idle_s: float
    recent: RecentRequests


class QueueStatsReply(BaseModel):
    """All models together, and each."""

    status: Literal["ok"]
    queue_stats: QueueStats
    models: dict[str, QueueStats]
