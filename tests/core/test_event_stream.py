import asyncio

import pytest

from app.core.event_stream import EventStream
from app.core.events import Embedded, Event, Failed, Finished, Started, TextDelta, Usage
from app.errors import ContextLengthExceeded, InternalError, RequestTimeout

LAST = Finished(Usage(3, 2))


class Reader:
    """A stream, the ids whose work was cancelled, and what a task has read from it."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []
        self.stream = EventStream(7, self.cancelled.append)
        self.batches: list[list[Event]] = []

    async def read(self) -> None:
        async for batch in self.stream:
            self.batches.append(batch)


async def test_gives_all_that_has_arrived_in_one_batch() -> None:
    reader = Reader()
    for event in (Started(3), TextDelta("a"), TextDelta("b"), LAST):
        reader.stream.push(event)
    await reader.read()
    assert reader.batches == [[Started(3), TextDelta("a"), TextDelta("b"), LAST]]
    assert reader.cancelled == []


async def test_waits_for_what_has_not() -> None:
    reader = Reader()
    task = asyncio.create_task(reader.read())
    for event in (Started(3), TextDelta("a"), LAST):
        await asyncio.sleep(0)
        assert not task.done()
        reader.stream.push(event)
    await task
    assert reader.batches == [[Started(3)], [TextDelta("a")], [LAST]]


@pytest.mark.parametrize("last", [LAST, Embedded([b"1234"], Usage(3)), Failed("InternalError", "")])
async def test_drops_what_comes_after_the_last_event(last: Event) -> None:
    reader = Reader()
    reader.stream.push(last)
    reader.stream.push(TextDelta("late"))
    reader.stream.fail(RequestTimeout("Late."))
    reader.stream.close()
    await asyncio.gather(reader.read(), return_exceptions=True)
    assert TextDelta("late") not in [event for batch in reader.batches for event in batch]
    assert reader.cancelled == []


async def test_raises_what_the_worker_reports_after_what_came_before() -> None:
    reader = Reader()
    reader.stream.push(Started(3))
    reader.stream.push(Failed("ContextLengthExceeded", "Too long.", "messages"))
    with pytest.raises(ContextLengthExceeded, match=r"Too long\.") as caught:
        await reader.read()
    assert caught.value.param == "messages"
    assert reader.batches == [[Started(3)]]


@pytest.mark.parametrize("name", ["NoSuchError", "ServerError2", "annotations", "ClassVar", "InternalError"])
async def test_unknown_errors_are_ours(name: str) -> None:
    reader = Reader()
    reader.stream.push(Failed(name, "internals"))
    with pytest.raises(InternalError) as caught:
        await reader.read()
    assert "internals" not in caught.value.message


async def test_failed_from_outside_it_gives_the_rest_then_raises_and_ends_the_work() -> None:
    reader = Reader()
    reader.stream.push(TextDelta("a"))
    reader.stream.fail(RequestTimeout("Too slow."))
    reader.stream.fail(RequestTimeout("Again."))
    with pytest.raises(RequestTimeout, match=r"Too slow\."):
        await reader.read()
    assert reader.batches == [[TextDelta("a")]]
    assert reader.cancelled == [7]


async def test_failed_while_it_is_waited_for() -> None:
    reader = Reader()
    task = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    reader.stream.fail(RequestTimeout("Too slow."))
    with pytest.raises(RequestTimeout):
        await task


async def test_closed_early_it_ends_the_work_once() -> None:
    reader = Reader()
    reader.stream.push(TextDelta("a"))
    reader.stream.close()
    reader.stream.close()
    assert reader.cancelled == [7]


async def test_a_reader_that_is_cancelled_harms_nothing() -> None:
    reader = Reader()
    task = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    reader.stream.push(LAST)
    await reader.read()
    assert reader.batches == [[LAST]]
