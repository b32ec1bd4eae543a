"""GET /metrics: what Prometheus collects."""

import os
import time
from collections.abc import Callable, Mapping
from typing import get_args

from fastapi import APIRouter, Request, Response

from app import __version__
from app.api.context import context_of, metrics_of
from app.api.exposition import CONTENT_TYPE, Exposition
from app.core import machine
from app.core.histogram import Histogram
from app.core.lifecycle import Lifecycle, State
from app.core.metrics import Metrics, ModelMetrics
from app.core.served_model import ServedModel

router = APIRouter(tags=["operations"])
DOCUMENTED = ()

_STARTED_AT = time.time()
_HTTP = "mlx_server_http_"
_MODEL = "mlx_server_model_"


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def get_metrics(request: Request) -> Response:
    """Counts, gauges and histograms of requests, tokens, queues, models and workers."""
    served = context_of(request).registry.models
    return Response(metrics_text(metrics_of(request), served), media_type=CONTENT_TYPE)


def metrics_text(metrics: Metrics, served: Mapping[str, ServedModel]) -> str:
    """Every metric. Labels are names of routes, models and keys that the server has, and never what a client sent."""
    page = Exposition()
    _write_server(page)
    _write_replies(page, metrics)
    ids = [name for model in served.values() for name in model.spec.ids]
    _write_work(page, {name: metrics.models.get(name, ModelMetrics()) for name in ids})
    _write_keys(page, metrics)
    _write_queues(page, served)
    _write_workers(page, served)
    return page.text()


def _write_server(page: Exposition) -> None:
    page.write("mlx_server_info", "gauge", "This server.", {(__version__,): 1}, ("version",))
    page.write("process_start_time_seconds", "gauge", "Start of the server process.", {(): _STARTED_AT})
    about = "Memory of the server process, without its workers."
    page.write("process_resident_memory_bytes", "gauge", about, {(): machine.resident_bytes(os.getpid())})


def _write_replies(page: Exposition, metrics: Metrics) -> None:
    replies = {(method, route, str(status)): count for (method, route, status), count in metrics.replies.items()}
    about = "HTTP requests that were answered; status 499 is a client that hung up."
    page.write(_HTTP + "requests_total", "counter", about, replies, ("method", "route", "status"))
    about = "Time from an HTTP request to the end of its reply."
    page.write_histograms(_HTTP + "request_duration_seconds", about, "route", metrics.reply_durations)


def _write_work(page: Exposition, models: Mapping[str, ModelMetrics]) -> None:
    def histograms(name: str, about: str, of: Callable[[ModelMetrics], Histogram]) -> None:
        page.write_histograms(_MODEL + name, about, "model", {model: of(one) for model, one in models.items()})

    def counts(name: str, about: str, of: Callable[[ModelMetrics], int]) -> None:
        samples = {(model,): of(one) for model, one in models.items()}
        page.write(_MODEL + name, "counter", about, samples, ("model",))

    histograms("request_duration_seconds", "Time from a request to its last token.", lambda one: one.duration)
    histograms("queue_wait_seconds", "Time from a request to its slot in the model.", lambda one: one.queue_wait)
    histograms("time_to_first_token_seconds", "Time from a request to its first token.", lambda one: one.ttft)
    about = "Time between two pieces of an answer, counted when it is over; a piece is mostly a token."
    histograms("inter_token_latency_seconds", about, lambda one: one.token_gap)
    counts("prompt_tokens_total", "Tokens of prompts, those found in the cache too.", lambda one: one.prompt_tokens)
    counts("cached_prompt_tokens_total", "Tokens of prompts found in the prefix cache.", lambda one: one.cached_tokens)
    counts("generated_tokens_total", "Tokens of answers and reasoning.", lambda one: one.generated_tokens)
    counts("prompts_total", "Prompts whose work is over.", lambda one: one.num_prompts)
    counts("prefix_cache_hits_total", "Those that began in the prefix cache.", lambda one: one.num_cache_hits)


def _write_keys(page: Exposition, metrics: Metrics) -> None:
    for name, about, counts in (
        ("prompts_total", "Prompts that came with the key and whose work is over.", metrics.key_prompts),
        ("tokens_total", "Tokens of prompts and answers of the key.", metrics.key_tokens),
    ):
        samples = {(key,): count for key, count in counts.items()}
        page.write("mlx_server_key_" + name, "counter", about, samples, ("key",))


def _write_queues(page: Exposition, served: Mapping[str, ServedModel]) -> None:
    def gauges(name: str, about: str, of: Callable[[ServedModel], int]) -> None:
        samples = {(model,): of(one) for model, one in served.items()}
        page.write(_MODEL + name, "gauge", about, samples, ("model",))

    gauges("requests_running", "Requests in a slot of the model.", lambda one: one.admission.num_active)
    gauges("requests_waiting", "Requests that wait for a slot.", lambda one: one.admission.num_waiting)
    gauges("slots", "Requests that may run at once; 0 while it is not ready.", lambda one: one.admission.num_slots)
    gauges("queue_size", "Requests that may wait.", lambda one: one.admission.queue_size)
    outcomes = {
        (model, outcome): getattr(one.admission.counts, outcome)
        for model, one in served.items()
        for outcome in ("completed", "failed", "cancelled", "rejected", "timed_out")
    }
    about = "Requests that have left the queue or the model; rejected ones found the queue full."
    page.write(_MODEL + "requests_total", "counter", about, outcomes, ("model", "outcome"))


def _write_workers(page: Exposition, served: Mapping[str, ServedModel]) -> None:
    states = {(model, state): int(one.state == state) for model, one in served.items() for state in get_args(State)}
    page.write(_MODEL + "state", "gauge", "1 for the state the model is in.", states, ("model", "state"))
    _write_life(page, served)
    loads = {(model,): one.info.load_s for model, one in served.items() if one.info is not None}
    page.write(_MODEL + "load_seconds", "gauge", "Time that the last load took.", loads, ("model",))
    sizes = {(model,): one.life.resident_bytes for model, one in served.items() if one.worker_pid is not None}
    about = "Memory of the model's worker process."
    page.write("mlx_server_worker_resident_memory_bytes", "gauge", about, sizes, ("model",))


def _write_life(page: Exposition, served: Mapping[str, ServedModel]) -> None:
    def counts(name: str, about: str, of: Callable[[Lifecycle], int]) -> None:
        page.write(name, "counter", about, {(model,): of(one.life) for model, one in served.items()}, ("model",))

    counts(_MODEL + "loads_total", "Times that the model was loaded.", lambda life: life.num_loads)
    counts(_MODEL + "unloads_total", "Times that the model was unloaded.", lambda life: life.num_unloads)
    about = "Times that the model's worker died and was started again."
    counts("mlx_server_worker_restarts_total", about, lambda life: life.num_restarts)
