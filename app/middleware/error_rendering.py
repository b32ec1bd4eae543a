"""Turns every error raised further in into a reply; nothing passes it but the end of the process."""

from collections.abc import Callable

from fastapi import Response
from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.record import RequestRecord
from app.core.store import StoreError
from app.errors import (
    ClientGone,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ServerError,
    Unavailable,
)


class ErrorRenderingMiddleware:
    """Renders errors with `render(path, error, request id)`, which knows the protocols."""

    def __init__(self, app: ASGIApp, render: Callable[[str, ServerError, str], Response]) -> None:
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            record: RequestRecord = scope["state"]["record"]
            shown = record.error = _as_server_error(error, scope, record)
            if isinstance(shown, ClientGone):
                record.status = shown.status
            elif not has_begun:
                await self._render(scope["path"], shown, record.request_id)(scope, receive, send)


def http_error(error: HTTPException, scope: Scope) -> ServerError:
    """The framework's own errors, said our way."""
    match error.status_code:
        case 404:
            return NotFound(f"There is no {scope['method']} {scope['path']}; /docs lists the routes.")
        case 405:
            allowed = (error.headers or {}).get("Allow", "no method")
            return MethodNotAllowed(f"{scope['path']} takes {allowed}, not {scope['method']}.", allowed=allowed)
        case _:
            return InvalidRequest(str(error.detail))


def _as_server_error(error: Exception, scope: Scope, record: RequestRecord) -> ServerError:
    match error:
        case ServerError():
            return error
        case ClientDisconnect():
            return ClientGone("The client hung up.")
        case HTTPException():
            return http_error(error, scope)
        case StoreError():
            logger.error("request {}: {}", record.request_id, error)
            return Unavailable(
                "What the server keeps for its clients cannot be read or written now; its log says why.",
                code="store_unavailable",
            )
        case _:
            logger.opt(exception=error).error("request {} failed", record.request_id)
            return InternalError()
