"""The outermost layer: a request id, the time taken, one access line."""

import re
import secrets
import time

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.record import RequestRecord

# A client's own id goes into the log and back into a header: only what is harmless in both.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Asked every few seconds by supervisors and dashboards.
_QUIET_PATHS = ("/health", "/v1/health", "/v1/queue/stats", "/queue/stats")


class TrackingMiddleware:
    """Gives every request a `RequestRecord`, its reply X-Request-ID and X-Process-Time, the log one line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}")
        if client := scope.get("client"):
            record.client = client[0]
        scope.setdefault("state", {})["record"] = record
        status = 0

        async def send_tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = record.request_id
                # Where Anthropic's clients look for it.
                headers["Request-ID"] = record.request_id
                headers["X-Process-Time"] = f"{time.monotonic() - record.started_at:.6f}"
            await send(message)

        try:
            await self._app(scope, receive, send_tracked)
        finally:
            _write_line(scope, record, status)


def _write_line(scope: Scope, record: RequestRecord, status: int) -> None:
    """The access line: what was asked, how it ended, and for a generation its tokens and speed."""
    parts = [f"{record.request_id} {scope['method']} {scope['path']}", str(record.status or status or 500)]
    parts.append(f"{time.monotonic() - record.started_at:.3f}s")
    if record.model is not None:
        parts.append(f"model={record.model}")
    if record.usage is not None:
        parts.append(f"tokens={record.usage.prompt_tokens}+{record.usage.completion_tokens}")
    if record.ttft_s is not None:
        parts.append(f"ttft={record.ttft_s:.3f}s")
    if record.tokens_per_s is not None:
        parts.append(f"speed={record.tokens_per_s:.1f}tok/s")
    if record.waited_s > 0.01:
        parts.append(f"waited={record.waited_s:.3f}s")
    if record.error is not None:
        parts.append(f"error={record.error.error_code or record.error.type}")
    level = "DEBUG" if scope["path"].startswith(_QUIET_PATHS) else "INFO"
    # The path is the client's: as an argument, its braces are not taken for places.
    logger.bind(request_id=record.request_id, status=status).log(level, "{}", " ".join(parts))
