import threading
from collections.abc import Iterator

import pytest

from app.handler.flux.stepped import Pause, SteppedThread, Stopped


@pytest.fixture
def thread() -> Iterator[SteppedThread]:
    made = SteppedThread("test")
    yield made
    made.end()


def test_work_goes_on_only_when_it_is_asked_to(thread: SteppedThread) -> None:
    done: list[int] = []

    def work(pause: Pause) -> str:
        for number in range(3):
            done.append(number)
            pause(number)
        return "end"

    steps = thread.run(work)
    assert done == []
    for number in range(3):
        assert next(steps) == number
        assert done == list(range(number + 1))
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "end"


def test_all_work_is_done_by_one_other_thread(thread: SteppedThread) -> None:
    names = {thread.call(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"test"}


def test_what_the_work_raises_is_raised(thread: SteppedThread) -> None:
    with pytest.raises(ValueError, match="no"):
        thread.call(lambda: int("no"))
    assert thread.call(lambda: 1) == 1


def test_closed_work_is_stopped_where_it_waits_and_the_thread_is_free(thread: SteppedThread) -> None:
    seen: list[str] = []

    def work(pause: Pause) -> None:
        try:
            pause(1)
            seen.append("went on")
        except Exception:
            seen.append("was caught")
        except Stopped:
            seen.append("was stopped")
            raise

    steps = thread.run(work)
    next(steps)
    steps.close()
    assert seen == ["was stopped"]
    assert thread.call(lambda: 2) == 2


def test_work_that_was_never_begun_is_not_done(thread: SteppedThread) -> None:
    done: list[int] = []
    steps = thread.run(lambda _: done.append(1))
    steps.close()
    assert thread.call(lambda: list(done)) == []
