"""The outermost layer: a request id, the time taken, what is measured, one access line."""

import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.allowance import Allowance
from app.core.metrics import Metrics
from app.core.record import RequestRecord

if TYPE_CHECKING:
    from app.core.traces import RequestSpan, Traces

# A client's own id goes into the log and back into a header: only what is harmless in both.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Asked every few seconds by supervisors and dashboards.
_QUIET_PATHS = ("/health", "/v1/health", "/v1/queue/stats", "/queue/stats", "/metrics")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What a client asks for that is no route, or a page of the documentation.
_NO_ROUTE = "other"


class TrackingMiddleware:
    """Gives every request a `RequestRecord`, its reply X-Request-ID and X-Process-Time, the log one line.

    `limit_headers(path, allowance)` are those that tell what is left of a key's allowance; `plain_routes` are the paths
    of routes without parameters, which are known before they are looked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        limit_headers: Callable[[str, Allowance], Mapping[str, str]],
        plain_routes: frozenset[str] = frozenset(),
        traces: "Traces | None" = None,
    ) -> None:
        self._app = app
        self._traces = traces
        self._metrics = metrics
        self._plain_routes = plain_routes
        self._limit_headers = limit_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}")
        if client := scope.get("client"):
            record.client = client[0]
        record.watchers.append(self._metrics.take_work)
        span = self._begin_span(scope, headers, record)
        scope.setdefault("state", {})["record"] = record

        async def receive_tracked() -> Message:
            message = await receive()
            record.request_bytes += len(message.get("body", b""))
            return message

        async def send_tracked(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = record.request_id
                # Where Anthropic's clients look for it.
                headers["Request-ID"] = record.request_id
                headers["X-Process-Time"] = f"{record.duration_s:.6f}"
                if record.allowance is not None:
                    headers.update(self._limit_headers(scope["path"], record.allowance))
            else:
                record.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive_tracked, send_tracked)
        finally:
            record.end()
            self._note(scope, record, span)

    def _begin_span(self, scope: Scope, headers: Headers, record: RequestRecord) -> "RequestSpan | None":
        if self._traces is None or scope["path"].startswith(_QUIET_PATHS):
            return None
        span = self._traces.begin(scope["method"] if scope["method"] in _METHODS else "_OTHER", scope["path"], headers)
        record.watchers.append(partial(self._traces.take_work, span))
        return span

    def _note(self, scope: Scope, record: RequestRecord, span: "RequestSpan | None") -> None:
        method = scope["method"] if scope["method"] in _METHODS else _NO_ROUTE
        route = self._route_of(scope)
        status = record.status or 500
        self._metrics.take_reply(method, route, status, record.duration_s)
        if self._traces is not None and span is not None:
            self._traces.end(span, None if route == _NO_ROUTE else route, status, record.error)
        _write_line(scope, route, status, record)

    def _route_of(self, scope: Scope) -> str:
        """The route's template, never a path that a client made up."""
        known = scope["path"] if scope["path"] in self._plain_routes else _NO_ROUTE
        return getattr(scope.get("route"), "path", known)


def _write_line(scope: Scope, route: str, status: int, record: RequestRecord) -> None:
    """The access line: what was asked, how it ended, and for a generation its tokens and speed."""
    figures = record.figures()
    parts = [f"{record.request_id} {scope['method']} {scope['path']}", str(status), f"{record.duration_s:.3f}s"]
    parts += [f"{name}={figures[name]}" for name in ("key", "model") if name in figures]
    if record.usage is not None:
        parts.append(f"tokens={record.usage.prompt_tokens}+{record.generated_tokens}")
    if record.ttft_s is not None:
        parts.append(f"ttft={record.ttft_s:.3f}s")
    if record.tokens_per_s is not None:
        parts.append(f"speed={record.tokens_per_s:.1f}tok/s")
    if record.waited_s > 0.01:
        parts.append(f"waited={record.waited_s:.3f}s")
    if "error" in figures:
        parts.append(f"error={figures['error']}")
    level = "DEBUG" if scope["path"].startswith(_QUIET_PATHS) else "INFO"
    sizes = {"request_bytes": record.request_bytes, "response_bytes": record.response_bytes}
    # The path is the client's: as an argument, its braces are not taken for places.
    logger.bind(method=scope["method"], route=route, status=status, **sizes, **figures).log(
        level, "{}", " ".join(parts)
    )
