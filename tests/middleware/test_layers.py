"""The layers around a small application of their own: what each does that no request to the real server can show."""

import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Response
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.limit_headers import openai_limit_headers
from app.api.openai_errors import error_response
from app.core.allowance import Allowance
from app.core.metrics import Metrics
from app.errors import ClientGone, QueueFull, ServerError
from app.middleware.auth import AuthMiddleware
from app.middleware.body_limit import BodyLimitMiddleware
from app.middleware.error_rendering import ErrorRenderingMiddleware
from app.middleware.limits import LimitsMiddleware
from app.middleware.tracking import TrackingMiddleware
from app.settings import AccessKey


def render(path: str, error: ServerError, request_id: str) -> Response:
    return error_response(error, request_id)


def limit_headers(path: str, allowance: Allowance) -> dict[str, str]:
    return openai_limit_headers(allowance)


def layered(app: ASGIApp, *keys: AccessKey, max_bytes: int = 100) -> ASGIApp:
    """In the server's order."""
    limited = LimitsMiddleware(BodyLimitMiddleware(app, max_bytes=max_bytes), keys=keys)
    rendered = ErrorRenderingMiddleware(AuthMiddleware(limited, keys=keys), render=render)
    return TrackingMiddleware(rendered, metrics=Metrics(), limit_headers=limit_headers)


def key(value: str) -> AccessKey:
    # Not checked: a file could not give each of the keys that these tests try.
    return AccessKey.model_construct(name="alice", key=SecretStr(value))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body."""
    body, is_more = b"", True
    while is_more:
        message = await receive()
        body += message["body"]
        is_more = message["more_body"]
    await Response(body)(scope, receive, send)


def failing(error: Exception, *, after_start: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


async def ask(app: ASGIApp, content: bytes | AsyncIterator[bytes] = b"", /, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        return await client.post("/path", content=content, headers=headers)


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


class TestErrors:
    async def test_of_ours_keep_their_status_and_advice(self) -> None:
        reply = await ask(layered(failing(QueueFull("Come back.", retry_after_s=1.2))))
        assert reply.status_code == 429
        assert reply.headers["Retry-After"] == "2"
        assert reply.json()["error"] == {
            "message": "Come back.",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }

    async def test_that_are_defects_tell_nothing_of_the_inside(self) -> None:
        reply = await ask(layered(failing(RuntimeError("the secret inside"))), **{"X-Request-ID": "mine"})
        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert (reply.json()["error"]["code"], reply.json()["request_id"]) == ("internal_error", "mine")

    async def test_of_the_framework_become_ours(self) -> None:
        assert (await ask(layered(failing(HTTPException(418, "short"))))).json()["error"]["message"] == "short"

    @pytest.mark.parametrize("error", [QueueFull("x"), RuntimeError("x"), ClientGone("x")])
    async def test_after_the_start_are_not_answered_twice(self, error: Exception) -> None:
        sent = await raw(layered(failing(error, after_start=True)))
        assert [message["type"] for message in sent] == ["http.response.start"]

    async def test_of_a_client_that_has_gone_are_not_answered(self) -> None:
        assert await raw(layered(failing(ClientGone("x")))) == []

    async def test_that_end_the_process_pass(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            await raw(layered(app))


class TestBodyLimit:
    @pytest.mark.parametrize("size", [0, 1, 99, 100])
    async def test_up_to_it_a_body_passes(self, size: int) -> None:
        assert (await ask(layered(echo), b"x" * size)).content == b"x" * size
        assert (await ask(layered(echo), pieces(size // 2, size - size // 2))).content == b"x" * size

    async def test_over_it_a_body_is_refused(self) -> None:
        for content in (b"x" * 101, pieces(101), pieces(60, 0, 41), pieces(*[1] * 101)):
            reply = await ask(layered(echo), content)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")

    @pytest.mark.parametrize("announced", ["-1", "1e3", "", "five", "0x10", "\xb2"])
    async def test_announcements_are_numbers(self, announced: str) -> None:
        (start, _) = await raw(layered(echo), [(b"content-length", announced.encode("latin-1"))])
        assert start["status"] == 400


class TestKeys:
    @pytest.mark.parametrize("secret", ["plain", "with space", "!#$%&'*+-.^_`|~/=Kk", "x" * 5000])
    async def test_open_and_nothing_else_does(self, secret: str) -> None:
        app = layered(echo, key("other"), key(secret))
        for headers in ([(b"x-api-key", secret.encode())], [(b"authorization", b"Bearer " + secret.encode())]):
            assert (await raw(app, headers))[0]["status"] == 200
        for wrong in ("", secret[:-1], secret + "x", secret.upper(), "other2"):
            assert (await raw(app, [(b"x-api-key", wrong.encode())]))[0]["status"] == 401

    async def test_are_not_asked_for_where_there_are_none(self) -> None:
        assert (await raw(layered(echo)))[0]["status"] == 200


class TestTracking:
    async def test_other_protocols_pass_untouched(self) -> None:
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])

        for kind in ("lifespan", "websocket"):
            await layered(app, key("key"))({"type": kind}, nothing_more, send_nowhere)
        assert seen == ["lifespan", "websocket"]


async def raw(app: ASGIApp, headers: list[tuple[bytes, bytes]] | None = None) -> list[Message]:
    """What the application sends for an empty POST."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/path", "headers": headers or [], "client": ("1.2.3.4", 5)}
    await app(scope, nothing_more, send)
    for message in sent:
        with contextlib.suppress(KeyError):
            assert isinstance(json.loads(message["body"] or b"{}"), dict)
    return sent


async def nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send_nowhere(message: Message) -> None:
    raise AssertionError(message)
