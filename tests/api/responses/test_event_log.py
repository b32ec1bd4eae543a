import asyncio

import pytest

from app.api.responses.event_log import EventLog
from app.errors import InvalidRequest


def frame(number: int) -> bytes:
    return b"data: %d\n\n" % number


async def read(log: EventLog, after: int = -1) -> bytes:
    return b"".join([frames async for frames in log.follow(after)])


async def filled(num_frames: int, max_bytes: int = 1000) -> EventLog:
    log = EventLog(max_bytes)
    await log.write(b"".join(map(frame, range(num_frames))))
    return log


@pytest.mark.parametrize(("after", "first"), [(-1, 0), (0, 1), (2, 3), (3, 4), (99, 4)])
async def test_events_after_a_number(after: int, first: int) -> None:
    log = await filled(4)
    log.close()
    assert await read(log, after) == b"".join(map(frame, range(first, 4)))


async def test_events_to_come_are_waited_for_by_everybody() -> None:
    log = await filled(2)
    readers = [asyncio.create_task(read(log, after)) for after in (-1, 0, 1, 2)]
    for number in (2, 3):
        await asyncio.sleep(0)
        await log.write(frame(number))
    assert not any(reader.done() for reader in readers)
    log.close()
    expected = [b"".join(map(frame, range(first, 4))) for first in range(4)]
    assert await asyncio.gather(*readers) == expected


async def test_the_oldest_go() -> None:
    log = await filled(5, max_bytes=3 * len(frame(0)))
    log.close()
    assert log.num_bytes == 3 * len(frame(0))
    assert await read(log, 1) == b"".join(map(frame, (2, 3, 4)))
    with pytest.raises(InvalidRequest, match="up to 1 are not kept") as caught:
        await read(log, 0)
    assert caught.value.param == "starting_after"
