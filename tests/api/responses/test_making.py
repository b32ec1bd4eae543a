"""Responses made with a real model, where the store fails or somebody is late."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.api.media.reader import open_media
from app.api.responses.desk import MAX_BACKGROUND, ResponseDesk
from app.api.responses.kept import RESPONSE
from app.api.responses.making import Workplace
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.store import Store, open_store
from app.errors import InternalError, InvalidRequest, QueueFull
from app.schemas.responses import ResponseRequest
from app.settings import ModelSpec, Settings
from tests.fixtures import tiny_lm

END_TOKEN = 2


@pytest.fixture(scope="module")
def roomy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama whose context has room for answers that do not end."""
    return tiny_lm.llama(tmp_path_factory.mktemp("models") / "llama", context_length=131_072)


@asynccontextmanager
async def opened(roomy_folder: Path, folder: Path) -> AsyncGenerator[ResponseDesk]:
    """A desk with a model and a store of its own."""
    registry = Registry((ModelSpec(model_path=str(roomy_folder)),), folder)
    settings = Settings(store_in_memory=True)
    store = open_store(settings)
    desk = ResponseDesk(Workplace(registry, store, open_media(settings)))
    registry.start()
    try:
        assert await registry.wait_until_loaded()
        yield desk
    finally:
        await desk.close()
        await registry.close()
        await store.close()


def body_of(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate_json(json.dumps({"input": "hello", "max_output_tokens": 3} | fields))


def endless(**fields: Any) -> ResponseRequest:
    return body_of(max_output_tokens=100_000, logit_bias={str(END_TOKEN): -100}, **fields)


async def nowhere(_frames: bytes) -> None:
    pass


async def made(desk: ResponseDesk, body: ResponseRequest) -> tuple[dict[str, Any], list[bytes]]:
    """A response, and what was written of its stream."""
    written: list[bytes] = []

    async def write(frames: bytes) -> None:
        written.append(frames)

    with desk.hold(body) as held:
        making = await desk.prepare(body, RequestRecord("test"))
        await desk.make(making, held, write)
    return json.loads(making.response), written


async def break_store(store: Store) -> None:
    """Nothing can be put into it any more."""
    await store._run(store._tables.close)


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_that_cannot_be_kept_is_given_and_says_so(
    roomy_folder: Path, tmp_path: Path, streams: bool
) -> None:
    async with opened(roomy_folder, tmp_path) as desk:
        await break_store(desk.place.store)
        # Where nothing is referred to, nothing is read.
        response, written = await made(desk, body_of(stream=streams))
        assert (response["status"], response["store"]) == ("incomplete", False)
        assert b'"store":false' in written[-1]
        making = await desk.prepare(body_of(background=True), RequestRecord("test"))
        with pytest.raises(InternalError):
            await desk.start(making, ExitStack())
        assert desk.running == {}


async def test_a_response_is_kept_before_its_end_is_told(roomy_folder: Path, tmp_path: Path) -> None:
    async with opened(roomy_folder, tmp_path) as desk:
        body = body_of(stream=True)
        with desk.hold(body) as held:
            making = await desk.prepare(body, RequestRecord("test"))
            kept: list[object] = []

            async def write(frames: bytes) -> None:
                stored = await desk.place.store.get(RESPONSE, making.id)
                kept.append(stored and json.loads(stored.body)["status"])
                assert (making.id in desk.running) == (b"response.incomplete" not in frames)

            await desk.make(making, held, write)
        # From the first event on it is known, and with the last it is done.
        assert kept[0] == "in_progress"
        assert kept[-1] == "incomplete"


async def test_a_conversation_is_free_again_whatever_ends_a_response(roomy_folder: Path, tmp_path: Path) -> None:
    async with opened(roomy_folder, tmp_path) as desk:
        body = endless(conversation="conv_1")
        with desk.hold(body) as held:
            with pytest.raises(InvalidRequest, match="conversation"), desk.hold(body):
                pass
            held.close()
            with desk.hold(body):
                pass
        for _ in range(2):
            with pytest.raises(Exception, match="conv_1"), desk.hold(body):
                await desk.prepare(body, RequestRecord("test"))


async def test_work_in_the_background_is_bounded_and_ended_with_the_desk(roomy_folder: Path, tmp_path: Path) -> None:
    async with opened(roomy_folder, tmp_path) as desk:
        body = endless(background=True)
        responses: list[str] = []
        for _ in range(MAX_BACKGROUND):
            making = await desk.prepare(body, RequestRecord("test"))
            await desk.start(making, ExitStack())
            responses.append(making.id)
        with pytest.raises(QueueFull):
            await desk.start(await desk.prepare(body, RequestRecord("test")), ExitStack())
        assert desk.running.keys() == set(responses)
        await asyncio.gather(*(desk.cancel(response_id) for response_id in responses[:2]))
        await desk.start(await desk.prepare(body, RequestRecord("test")), ExitStack())
        await desk.close()
        assert desk.running == {}
        stored = [await desk.place.store.get(RESPONSE, response_id) for response_id in responses]
        statuses = [json.loads(one.body)["status"] for one in stored if one is not None]
        assert statuses == ["cancelled"] * 2 + ["failed"] * (MAX_BACKGROUND - 2)
