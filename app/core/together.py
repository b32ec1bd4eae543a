"""Several generations as one: they run at the same time, and their choices are numbered through."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
from loguru import logger

from app.core.event_stream import EventStream
from app.core.events import (
    ChoiceEnded,
    EchoDelta,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import GenerationRequest
from app.errors import InternalError, ServerError


@asynccontextmanager
async def run_together(
    registry: Registry, name: str | None, requests: tuple[GenerationRequest, ...], record: RequestRecord
) -> AsyncGenerator[EventStream]:
    """Run `requests` on a model, each in a slot of its own, until the block is left.

    No more of them are in the model's line than it has slots: others get their turn between them. The choices of each
    are numbered on from those of the one before, and a single `Finished` has the usage of all. Errors: those of
    `Registry.run`, all while reading the stream; the first one ends everything.
    """
    model = await registry.seek(name)
    record.model = model.id_of(name)
    together = _Together(requests)
    gate = asyncio.Semaphore(model.max_concurrency)

    async def follow(index: int, request: GenerationRequest) -> None:
        own = replace(record)
        async with gate, registry.run(name, request, own) as stream:
            record.waited_s = max(record.waited_s, own.waited_s) if index else own.waited_s
            async for batch in stream:
                together.take(index, batch)

    tasks = [asyncio.create_task(follow(index, request)) for index, request in enumerate(requests)]
    for task in tasks:
        task.add_done_callback(together.note_end)
    try:
        yield together.stream
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Together:
    """Puts the events of several generations into one stream. Owned by the event loop's thread."""

    def __init__(self, requests: tuple[GenerationRequest, ...]) -> None:
        self.stream = EventStream(0, lambda _id: None)
        self._first_choices = [sum(one.num_choices for one in requests[:index]) for index in range(len(requests))]
        self._num_left = len(requests)
        self._usage = Usage(0)

    def take(self, index: int, events: list[Event]) -> None:
        """Take events of the `index`-th generation."""
        first_choice = self._first_choices[index]
        for event in events:
            match event:
                case (
                    EchoDelta(choice=choice)
                    | TextDelta(choice=choice)
                    | ReasoningDelta(choice=choice)
                    | ToolCallStarted(choice=choice)
                    | ToolCallDelta(choice=choice)
                    | ToolCallEnded(choice=choice)
                    | ChoiceEnded(choice=choice)
                ):
                    self.stream.push(msgspec.structs.replace(event, choice=first_choice + choice))
                case Finished(usage):
                    self._finish(usage)
                case _:
                    self.stream.push(event)

    def note_end(self, task: asyncio.Task[None]) -> None:
        """A generation is over: if it failed, all are."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, ServerError):
            logger.opt(exception=error).error("one of several generations failed")
            error = InternalError()
        self.stream.fail(error)

    def _finish(self, usage: Usage) -> None:
        sums = [ours + its for ours, its in zip(_counts(self._usage), _counts(usage), strict=True)]
        self._usage = Usage(*sums)
        self._num_left -= 1
        if not self._num_left:
            self.stream.push(Finished(self._usage))


def _counts(usage: Usage) -> tuple[int, ...]:
    return msgspec.structs.astuple(usage)
