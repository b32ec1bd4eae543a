"""How requests are taken off a key's allowance while they run, and after."""

import time

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.allowance import Allowance
from app.core.events import Event, Finished, Started, TextDelta, Usage
from app.core.record import RequestRecord
from app.settings import AccessKey
from tests.middleware.test_layers import layered

LIMITS = {"requests_per_minute": 9, "tokens_per_minute": 10_000, "max_concurrency": 2}
LIMITED = AccessKey.model_validate({"name": "alice", "key": SecretStr("limited"), **LIMITS})
FREE = AccessKey.model_validate({"name": "bob", "key": SecretStr("free")})


class Work:
    """An application whose reply has a chunk for each batch of events of its model."""

    def __init__(self, *batches: list[Event], fails: bool = False, in_background: bool = False) -> None:
        self._batches = batches
        self._fails = fails
        self._in_background = in_background
        self._app = layered(self, LIMITED, FREE)
        self.record = RequestRecord("none yet")
        self.allowance: Allowance | None = None
        # After each chunk.
        self.tokens_left: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: RequestRecord = scope["state"]["record"]
        self.allowance = record.allowance
        self.record = record.go_on_alone() if self._in_background else record
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for batch in self._batches:
            self.record.note(batch)
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            self.tokens_left.append(self.num_left)
        if self._fails:
            raise RuntimeError("in the middle")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def num_left(self) -> float:
        """Tokens that the key has left."""
        assert self.allowance is not None
        assert self.allowance.tokens is not None
        return self.allowance.tokens.level(time.monotonic())

    @property
    def num_running(self) -> int:
        assert self.allowance is not None
        return self.allowance.num_running

    async def ask(self, method: str = "POST", key: str = "limited") -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, "/path", headers={"x-api-key": key})


async def post(app: ASGIApp) -> httpx.Response:
    transport = httpx.ASGITransport(layered(app, LIMITED))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.post("/path", headers={"x-api-key": "limited"})


def about(*tokens: int) -> object:
    """What a quick test leaves of them: 167 come back in a second."""
    return pytest.approx(list(tokens), abs=400)


async def test_tokens_are_taken_off_as_they_become_known() -> None:
    work = Work([Started(2000)], [TextDelta("a")], [Finished(Usage(2000, 3000))])
    assert (await work.ask()).status_code == 200
    assert work.tokens_left == about(8000, 8000, 5000)
    assert [work.num_left] == about(5000)
    assert work.num_running == 0


async def test_a_reply_in_one_piece_tells_what_is_left_after_it() -> None:
    async def unary(scope: Scope, receive: Receive, send: Send) -> None:
        record: RequestRecord = scope["state"]["record"]
        record.note([Finished(Usage(1000, 6000))])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    reply = await post(unary)
    assert [int(reply.headers["x-ratelimit-remaining-tokens"])] == about(3000)
    assert reply.headers["x-ratelimit-remaining-requests"] == "8"


async def test_a_stream_that_fails_costs_what_it_gave() -> None:
    work = Work([Started(2000)], [TextDelta("a")] * 1000, fails=True)
    # So httpx says that the reply had no end.
    with pytest.raises(AssertionError):
        await work.ask()
    assert [work.num_left] == about(7000)
    assert work.num_running == 0


async def test_work_in_the_background_is_charged_when_it_ends_and_keeps_its_place() -> None:
    work = Work([Started(2000)], in_background=True)
    await work.ask()
    assert work.num_running == 1
    work.record.note([Finished(Usage(2000, 3000))])
    work.record.end()
    assert work.num_running == 0
    assert [work.num_left] == about(5000)


async def test_what_is_sent_after_work_in_the_background_gives_nothing_back() -> None:
    async def following(scope: Scope, receive: Receive, send: Send) -> None:
        own = scope["state"]["record"].go_on_alone()
        own.note([Finished(Usage(2000, 3000))])
        own.end()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert [int((await post(following)).headers["x-ratelimit-remaining-tokens"])] == about(5000)


@pytest.mark.parametrize(("method", "key"), [("GET", "limited"), ("DELETE", "limited"), ("POST", "free")])
async def test_other_requests_are_not_limited(method: str, key: str) -> None:
    work = Work()
    reply = await work.ask(method, key)
    assert reply.status_code == 200
    assert work.allowance is None
    assert not any(name.startswith("x-ratelimit") for name in reply.headers)
