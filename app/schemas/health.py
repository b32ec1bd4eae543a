"""GET /health and GET /v1/queue/stats on the wire: what dashboards and supervisors read."""

from typing import Literal

from pydantic import BaseModel


class ModelHealth(BaseModel):
    """One model's state, and why it is not ready."""

    status: str
    reason: str | None = None


class Health(BaseModel):
    """Healthy when every model is ready; `model_id` and `model_status` are the first model's."""

    status: Literal["ok", "unhealthy"]
    model_id: str
    model_status: str
    reason: str | None = None
    models: dict[str, ModelHealth]


class QueueStats(BaseModel):
    """Counts are since the server's start; times in seconds."""

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


class QueueStatsReply(BaseModel):
    """All models together, and each."""

    status: Literal["ok"]
    queue_stats: QueueStats
    models: dict[str, QueueStats]
