"""OpenTelemetry spans of requests, made of what their records know when they are over.

Imported only where traces are asked for: its libraries are an extra, and take a while.
Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans and .../gen-ai/gen-ai-spans
"""

import logging
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from loguru import logger
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.core.record import RequestRecord
from app.errors import ServerError

# What the collector gets to take the last spans when the server ends.
_CLOSING_S = 3.0
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


@dataclass(slots=True)
class RequestSpan:
    """The span of one HTTP request; work in the background goes on when it `is_over`."""

    span: Span
    method: str
    operation: str | None
    is_over: bool = False


class Traces:
    """Makes spans and hands them to a thread that sends them. Owned by the event loop's thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> RequestSpan:
        """Begin the span of a request, as a part of the trace that its `traceparent` header names, if it has one."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = TraceContextTextMapPropagator().extract(carrier)
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, {"http.request.method": method})
        return RequestSpan(span, method, _OPERATIONS.get(f"/v1{path.removeprefix('/v1')}"))

    def take_work(self, request: RequestSpan, record: RequestRecord) -> None:
        """Tell what a model did for a request; nothing if its worker never accepted it.

        Work that outlives its request has a span of its own, beside which it goes on in the same trace.
        """
        if record.model is None or record.usage is None:
            return
        clock = _Clock()
        if not request.is_over:
            request.span.set_attributes(_attributes_of_work(request, record))
            self._add_phases(request.span, record, clock)
            return
        start, end = clock.ns(record.started_at), clock.ns(record.started_at + record.duration_s)
        name = f"{request.operation or 'work'} {record.model}"
        own = self._tracer.start_span(
            name, _under(request.span), attributes=_attributes_of_work(request, record), start_time=start
        )
        self._add_phases(own, record, clock)
        _note_end(own, 0, record.error)
        own.end(end)

    def end(self, request: RequestSpan, route: str | None, status: int, error: ServerError | None) -> None:
        """End the span of a request; `error` is what ended it, perhaps in a stream whose status had been sent."""
        span, request.is_over = request.span, True
        span.set_attribute("http.response.status_code", status)
        if route is not None:
            span.set_attribute("http.route", route)
            span.update_name(f"{request.method} {route}")
        _note_end(span, status, error)
        span.end()

    def _add_phases(self, parent: Span, record: RequestRecord, clock: "_Clock") -> None:
        for name, start_s, end_s in _phases(record):
            child = self._tracer.start_span(name, _under(parent), start_time=clock.ns(start_s))
            child.end(clock.ns(end_s))


@contextmanager
def open_traces(endpoint: str) -> Generator[Traces]:
    """Send traces to the OTLP/HTTP collector at `endpoint` while the block runs."""
    # It would write lines for every try to reach the collector.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    # What is given here would win over the environment.
    about = {"service.name": "mlx-openai-server", "service.version": __version__}
    resource = Resource.create({**about, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Exporter(f"{endpoint.rstrip('/')}/v1/traces")))
    try:
        yield Traces(provider.get_tracer("mlx-openai-server", __version__))
    finally:
        # It would wait for half a minute for a collector that does not answer.
        closing = threading.Thread(target=provider.shutdown, name="last traces", daemon=True)
        closing.start()
        closing.join(_CLOSING_S)


class _Exporter(OTLPSpanExporter):
    """Says once that spans are lost, and once that they are taken again. Owned by the sending thread."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._host = urlsplit(url).hostname
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; they are lost where that fails."""
        result = super().export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._is_failing:
            logger.warning("the collector at {} takes no traces; they are lost until it does", self._host)
        elif self._is_failing and not has_failed:
            logger.info("the collector at {} takes traces again", self._host)
        self._is_failing = has_failed
        return result


class _Clock:
    """Turns monotonic seconds into the nanoseconds since 1970 that spans have."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def ns(self, monotonic_s: float) -> int:
        return self._offset_ns + int(monotonic_s * 1e9)


def _under(parent: Span) -> Context:
    return set_span_in_context(parent, Context())


def _note_end(span: Span, status: int, error: ServerError | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error.error_code or error.type)
    elif status >= 500:
        span.set_attribute("error.type", str(status))
    # What its client did wrong is no fault of the server.
    if status >= 500 or (error is not None and error.status >= 500):
        span.set_status(StatusCode.ERROR)


def _attributes_of_work(request: RequestSpan, record: RequestRecord) -> dict[str, str | int | list[str]]:
    model, usage = record.model or "", record.usage
    attributes: dict[str, str | int | list[str]] = {
        "gen_ai.provider.name": "mlx",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else 0,
        "gen_ai.usage.output_tokens": record.generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage else 0,
    }
    if request.operation is not None:
        attributes["gen_ai.operation.name"] = request.operation
    if record.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = list(record.finish_reasons)
    return attributes


def _phases(record: RequestRecord) -> list[tuple[str, float, float]]:
    """What a request did one after the other, each with its start and end: `compute` is work that has no tokens."""
    begun_at, ended_at = record.started_at + record.waited_s, record.started_at + record.duration_s
    waiting = ("queue", record.started_at, begun_at)
    if record.first_token_at is None:
        return [waiting, ("compute", begun_at, record.finished_at or ended_at)]
    return [
        waiting,
        ("prefill", begun_at, record.first_token_at),
        ("decode", record.first_token_at, record.finished_at or ended_at),
    ]
