import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.core.completion import fold
from app.core.conversation import Conversation, Message
from app.core.events import Event, Finished, Started, TextDelta
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import EmbeddingRequest, GenerationRequest, Request, Sampling
from app.errors import InvalidRequest, ModelLoadError, ModelNotFound, ModelUnavailable, RequestTimeout, ShuttingDown
from app.settings import ModelSpec

END_TOKEN = 2


def asked(max_tokens: int) -> GenerationRequest:
    """Greedy, and never at its end before `max_tokens`."""
    sampling = Sampling(temperature=0.0, logit_bias={END_TOKEN: -100.0})
    return GenerationRequest(Conversation([Message("user", "hello")]), sampling, max_tokens=max_tokens)


@asynccontextmanager
async def running(cache_dir: Path, *specs: ModelSpec) -> AsyncGenerator[Registry]:
    registry = Registry(specs, cache_dir)
    registry.start()
    try:
        yield registry
    finally:
        pids = [pid for model in registry.models.values() if (pid := model.worker_pid)]
        await registry.close()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def run(
    registry: Registry, request: Request, name: str | None = None, *, record: RequestRecord | None = None
) -> list[Event]:
    events: list[Event] = []
    async with registry.run(name, request, record or RequestRecord("test")) as stream:
        async for batch in stream:
            events += batch
    return events


async def test_a_request_runs_from_its_prompt_to_its_end(llama_folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec(model_path=str(llama_folder), served_model_name="tiny", request_timeout=0)
    async with running(tmp_path, spec) as registry:
        # Asked before the model is loaded, it waits.
        first, *_, last = events = await run(registry, asked(12))
        assert isinstance(first, Started)
        assert isinstance(last, Finished)
        assert last.usage.completion_tokens == 12
        assert last.usage.prompt_tokens == first.prompt_tokens
        assert fold(await run(registry, asked(12), "another name")).choices == fold(events).choices
        model = registry.models["tiny"]
        assert (model.num_leases, model.admission.num_active, model.admission.counts.completed) == (0, 0, 2)
        with pytest.raises(InvalidRequest, match="/v1/chat/completions"):
            await run(registry, EmbeddingRequest(["hello"]))


async def test_a_killed_worker_is_told_and_replaced(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, ModelSpec(model_path=str(llama_folder))) as registry:
        assert await registry.wait_until_loaded()
        (model,) = registry.models.values()
        async with registry.run(None, asked(400), RequestRecord("test")) as stream:
            async for batch in stream:
                if any(isinstance(event, TextDelta) for event in batch):
                    break
            assert model.num_leases == 1
            killed = model.worker_pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            with pytest.raises(ModelUnavailable, match="SIGKILL"):
                async for _ in stream:
                    pass
        assert model.num_leases == 0
        fold(await run(registry, asked(2)))
        assert (model.state, model.num_restarts) == ("ready", 1)
        assert model.worker_pid not in (None, killed)


async def test_a_request_ends_at_its_time_limit(llama_folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec(model_path=str(llama_folder), request_timeout=0.05)
    async with running(tmp_path, spec) as registry:
        assert await registry.wait_until_loaded()
        with pytest.raises(RequestTimeout, match=r"0\.05 s"):
            await run(registry, asked(490))


async def test_a_client_may_set_a_shorter_limit(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, ModelSpec(model_path=str(llama_folder), request_timeout=60)) as registry:
        assert await registry.wait_until_loaded()
        record = RequestRecord("test", timeout_s=0.05)
        with pytest.raises(RequestTimeout, match=r"0\.05 s"):
            await run(registry, asked(490), record=record)


async def test_draining_turns_away_and_ends_what_runs_too_long(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, ModelSpec(model_path=str(llama_folder), max_concurrency=1)) as registry:
        assert await registry.wait_until_loaded()
        (model,) = registry.models.values()
        async with registry.run(None, asked(490), RequestRecord("test")) as stream:
            waiting = asyncio.create_task(run(registry, asked(1)))
            # Once it has run at all, it stands in the line.
            await asyncio.sleep(0)
            assert model.admission.num_waiting == 1
            registry.drain(timeout_s=0)
            with pytest.raises(ShuttingDown):
                await waiting
            with pytest.raises(ShuttingDown):
                await run(registry, asked(1))
            with pytest.raises(ShuttingDown):
                await registry.load(model.spec.name)
            with pytest.raises(ShuttingDown):
                async for _ in stream:
                    pass


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    async with running(tmp_path, ModelSpec(model_path=str(tmp_path))) as registry:
        waiting = asyncio.create_task(run(registry, asked(1)))
        assert not await registry.wait_until_loaded()
        for request in (waiting, asyncio.create_task(run(registry, asked(1)))):
            with pytest.raises(ModelLoadError, match=r"config\.json"):
                await request


def test_models_are_found_by_name() -> None:
    one = Registry((ModelSpec(served_model_name="one"),), Path())
    assert one.find(None).spec.name == one.find("anything").spec.name == "one"
    two = Registry((ModelSpec(served_model_name="one"), ModelSpec(served_model_name="two")), Path())
    assert two.find("two").spec.name == "two"
    for name in (None, "", "three", "ONE"):
        with pytest.raises(ModelNotFound, match="'one', 'two'") as caught:
            two.find(name)
        assert caught.value.param == "model"
    with pytest.raises(ModelNotFound) as caught:
        two.find("three" * 2**20)
    assert len(caught.value.message) < 300
