"""GET /health and GET /v1/queue/stats: how the server is doing."""

import time

from fastapi import APIRouter, Request, Response

from app.api.context import context_of, metrics_of
from app.api.recent import recent_requests
from app.core.registry import Registry
from app.core.served_model import ServedModel
from app.schemas.health import Health, ModelHealth, QueueStats, QueueStatsReply, RecentRequests

router = APIRouter(tags=["operations"])
DOCUMENTED = ()

# What the supervisors of the servers before this one look for.
_READY = "initialized"


@router.get("/health", responses={503: {"model": Health}})
@router.get("/v1/health", include_in_schema=False)
@router.get("/health/ready", responses={503: {"model": Health}})
@router.get("/v1/health/ready", include_in_schema=False)
async def get_health(request: Request, response: Response) -> Health:
    """200 when every model is ready or comes when it is asked for, else 503 with the reason."""
    health = _health(context_of(request).registry)
    response.status_code = 200 if health.status == "ok" else 503
    return health


@router.get("/health/live")
@router.get("/v1/health/live", include_in_schema=False)
async def get_liveness() -> dict[str, str]:
    """200 as long as the server process answers."""
    return {"status": "ok"}


@router.get("/v1/queue/stats")
@router.get("/queue/stats", include_in_schema=False)
async def get_queue_stats(request: Request) -> QueueStatsReply:
    """Requests running, waiting and done: of all models together and of each."""
    metrics, served = metrics_of(request), context_of(request).registry.models
    models = {name: _stats(model, recent_requests(metrics, model.spec.ids)) for name, model in served.items()}
    every = recent_requests(metrics, context_of(request).registry.served)
    total = _total(list(models.values()), every)
    return QueueStatsReply(status="ok", queue_stats=total, models=models)


def _health(registry: Registry) -> Health:
    # What is found on the machine beside them is not for everybody to know: no key is asked for here.
    models = {name: _model_health(model) for name, model in registry.configured.items()}
    first = next(iter(models), None)
    missing = [name for name, model in registry.configured.items() if not _is_there(model)]
    reason = next((f"{name}: {models[name].reason or models[name].status}" for name in missing), None)
    return Health(
        status="ok" if reason is None else "unhealthy",
        model_id=first,
        model_status=None if first is None else models[first].status,
        reason=reason,
        models=models,
    )


def _is_there(model: ServedModel) -> bool:
    """Whether the server need not be mended: a model on demand is loaded anew, whatever became of it last time."""
    return model.spec.on_demand or model.state in ("ready", "unloaded")


def _model_health(model: ServedModel) -> ModelHealth:
    if model.state == "ready":
        return ModelHealth(status=_READY)
    return ModelHealth(status=model.state, reason=model.reason)


def _stats(model: ServedModel, recent: RecentRequests) -> QueueStats:
    line = model.admission
    counts = line.counts
    return QueueStats(
        running=_is_there(model) and model.state != "failed",
        queue_size=line.num_waiting,
        max_queue_size=line.queue_size,
        active_requests=line.num_active,
        max_concurrency=model.max_concurrency,
        completed_requests=counts.completed,
        failed_requests=counts.failed,
        cancelled_requests=counts.cancelled,
        rejected_requests=counts.rejected,
        timed_out_requests=counts.timed_out,
        average_wait_s=counts.total_wait_s / max(1, counts.num_waited),
        max_wait_s=counts.max_wait_s,
        worker_restarts=model.num_restarts,
        loads=model.life.num_loads,
        leases=model.num_leases,
        memory_bytes=model.life.resident_bytes,
        idle_s=time.monotonic() - model.life.used_at,
        recent=recent,
    )


def _total(stats: list[QueueStats], recent: RecentRequests) -> QueueStats:
    """Sums, but the mean of the average waits, the longest of the longest and the shortest of the idle times."""
    summed = set(QueueStats.model_fields) - {"running", "average_wait_s", "max_wait_s", "idle_s", "recent"}
    return QueueStats(
        running=all(one.running for one in stats),
        average_wait_s=sum(one.average_wait_s for one in stats) / max(1, len(stats)),
        max_wait_s=max((one.max_wait_s for one in stats), default=0.0),
        idle_s=min((one.idle_s for one in stats), default=0.0),
        recent=recent,
        **{name: sum(getattr(one, name) for one in stats) for name in summed},
    )
