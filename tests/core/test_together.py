"""Several generations as one reply, on the worker of a tiny model."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.core.completion import Completion, fold
from app.core.conversation import RawPrompt
from app.core.event_stream import EventStream
from app.core.events import ChoiceEnded, EchoDelta, Event, Finished, TextDelta, Usage
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import GenerationRequest, Sampling
from app.core.served_model import ServedModel
from app.core.together import run_together
from app.errors import ContextLengthExceeded, ModelUnavailable, RequestTimeout
from app.settings import ModelSpec

END_TOKEN = 2


def asked(text: str, max_tokens: int = 12, num_choices: int = 1, *, is_echoed: bool = False) -> GenerationRequest:
    sampling = Sampling(temperature=1.0, seed=3, logit_bias={END_TOKEN: -100.0})
    return GenerationRequest(RawPrompt(text, is_echoed=is_echoed), sampling, max_tokens, num_choices=num_choices)


@asynccontextmanager
async def running(folder: Path, cache_dir: Path, **settings: object) -> AsyncGenerator[tuple[Registry, ServedModel]]:
    spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False} | settings)
    registry = Registry((spec,), cache_dir)
    registry.start()
    try:
        assert await registry.wait_until_loaded()
        yield registry, registry.find(None)
    finally:
        await registry.close()


async def run(registry: Registry, *requests: GenerationRequest, record: RequestRecord | None = None) -> list[Event]:
    events: list[Event] = []
    async with run_together(registry, None, requests, record or RequestRecord("test")) as stream:
        async for batch in stream:
            events += batch
    return events


async def alone(registry: Registry, request: GenerationRequest, client: str = "-") -> Completion:
    events: list[Event] = []
    async with registry.run(None, request, RequestRecord("test", client)) as stream:
        async for batch in stream:
            events += batch
    return fold(events)


async def until_text(stream: EventStream) -> None:
    async for batch in stream:
        if any(isinstance(event, TextDelta) for event in batch):
            return


def is_free(model: ServedModel) -> bool:
    return (model.num_leases, model.admission.num_active, model.admission.num_waiting) == (0, 0, 0)


async def test_several_as_one(llama_folder: Path, tmp_path: Path) -> None:
    """In one process, as starting it takes longest."""
    async with running(llama_folder, tmp_path, max_concurrency=2, prompt_cache_bytes=0) as (registry, model):
        await check_each_is_what_it_is_alone(registry)
        await check_echoes_are_numbered_too(registry)
        await check_one_that_fails_ends_all(registry, model)
        await check_leaving_ends_all_that_run_and_wait(registry, model)
        await check_all_end_with_their_worker(registry, model)


async def check_each_is_what_it_is_alone(registry: Registry) -> None:
    requests = [asked(text, 5 + index, num_choices=2) for index, text in enumerate(["one", "two words", "the third"])]
    record = RequestRecord("test")
    events = await run(registry, *requests, record=record)
    whole = fold(events)
    singles = [await alone(registry, request) for request in requests]
    assert whole.choices == [choice for single in singles for choice in single.choices]
    assert whole.usage == Usage(
        sum(single.usage.prompt_tokens for single in singles),
        sum(single.usage.completion_tokens for single in singles),
    )
    assert [event for event in events if isinstance(event, Finished)] == [events[-1]]
    assert record.model == registry.find(None).spec.name
    assert is_free(registry.find(None))
    assert registry.find(None).admission.counts.completed == 6


async def check_echoes_are_numbered_too(registry: Registry) -> None:
    events = await run(registry, *(asked(text, 1, 2, is_echoed=True) for text in ("one", "two")))
    echoes = {event.choice: event.text for event in events if isinstance(event, EchoDelta)}
    assert echoes == {0: "one", 1: "one", 2: "two", 3: "two"}


async def check_one_that_fails_ends_all(registry: Registry, model: ServedModel) -> None:
    before = model.admission.counts.cancelled
    with pytest.raises(ContextLengthExceeded):
        await run(registry, asked("one", 490), asked("too long " * 600), asked("three", 490))
    assert is_free(model)
    assert model.admission.counts.cancelled > before
    assert (await alone(registry, asked("one", 3))).usage.completion_tokens == 3


async def check_leaving_ends_all_that_run_and_wait(registry: Registry, model: ServedModel) -> None:
    before = model.admission.counts.cancelled
    requests = tuple(asked(f"number {number}", 490) for number in range(5))
    async with run_together(registry, None, requests, RequestRecord("test")) as stream:
        await until_text(stream)
        # Two run; the others do not stand in the line of everybody else.
        assert (model.admission.num_active, model.admission.num_waiting) == (2, 0)
    assert is_free(model)
    assert model.admission.counts.cancelled == before + 2


async def check_all_end_with_their_worker(registry: Registry, model: ServedModel) -> None:
    requests = tuple(asked("one", 490) for _ in range(3))
    async with run_together(registry, None, requests, RequestRecord("test")) as stream:
        await until_text(stream)
        assert model.worker_pid is not None
        os.kill(model.worker_pid, signal.SIGKILL)
        with pytest.raises(ModelUnavailable, match="SIGKILL"):
            async for _ in stream:
                pass
    assert is_free(model)


async def test_others_get_their_turn_between_many(llama_folder: Path, tmp_path: Path) -> None:
    async with running(llama_folder, tmp_path, max_concurrency=1) as (registry, model):
        requests = tuple(asked(f"number {number}", 40) for number in range(6))
        async with run_together(registry, None, requests, RequestRecord("test", "greedy")) as stream:
            other = asyncio.create_task(alone(registry, asked("mine", 2), "modest"))
            num_ended = 0
            async for batch in stream:
                num_ended += 0 if other.done() else sum(isinstance(event, ChoiceEnded) for event in batch)
        assert (await other).usage.completion_tokens == 2
        assert num_ended <= 2
        with pytest.raises(RequestTimeout):
            await run(registry, *(asked("one", 490) for _ in range(3)), record=RequestRecord("test", timeout_s=0.05))
        assert is_free(model)
