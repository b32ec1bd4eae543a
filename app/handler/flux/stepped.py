"""Work that is done in steps though it is written in one piece: in a thread of its own, which waits between them."""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Pause = Callable[[Any], None]
Work = Callable[[Pause], Any]


class Stopped(BaseException):
    """Raised where the work waits, when nobody wants the rest; no `except Exception` on its way keeps it."""


@dataclass(frozen=True, slots=True)
class _Step:
    value: Any


@dataclass(frozen=True, slots=True)
class _Result:
    value: Any


@dataclass(frozen=True, slots=True)
class _Error:
    error: BaseException


class SteppedThread:
    """One thread that does one piece of work after the other, and its caller: only one of the two runs at any time.

    MLX wants a model to be loaded, run and freed by one thread: all of it is given to this one.
    """

    def __init__(self, name: str) -> None:
        self._orders: SimpleQueue[Work | Literal["go on", "stop"] | None] = SimpleQueue()
        self._reports: SimpleQueue[_Step | _Result | _Error] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> T:
        """Do all of it; gives and raises what it does."""
        steps = self.run(lambda _: work())
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        raise RuntimeError("work that was called has paused")

    def run(self, work: Work) -> Generator[Any, None, Any]:
        """Each `next` gives what the work pauses with, the end what it returns; closing stops it where it waits."""
        self._orders.put(work)
        while isinstance(report := self._reports.get(), _Step):
            is_wanted = False
            try:
                yield report.value
                is_wanted = True
            finally:
                self._orders.put("go on" if is_wanted else "stop")
                if not is_wanted:
                    self._reports.get()
        if isinstance(report, _Error):
            raise report.error
        return report.value

    def end(self) -> None:
        """End the thread; no work may be under way."""
        self._orders.put(None)
        # What MLX does at a thread's end must not meet what it does at the process's.
        self._thread.join()

    def _serve(self) -> None:
        while callable(work := self._orders.get()):
            self._reports.put(_outcome(work, self._pause))
            # Not kept until the next one comes: it may hold a model.
            del work

    def _pause(self, value: Any) -> None:
        self._reports.put(_Step(value))
        if self._orders.get() == "stop":
            raise Stopped


def _outcome(work: Work, pause: Pause) -> _Result | _Error:
    try:
        return _Result(work(pause))
    # Whatever it is belongs to the caller.
    except BaseException as error:
        return _Error(error)
