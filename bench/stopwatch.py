"""A stopwatch inside another process: there it adds up where time goes, and here that is read while it runs.

They share a file's memory, so that the measured process does nothing but write numbers into it.
"""

import mmap
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from app.bench.endpoint import CallFailed

Process = Literal["server", "worker"]
# The directory of the shared files; a process without it is not measured.
VARIABLE: Final = "BENCH_STOPWATCH"

# A number that is odd while the rest is being written, then the fields of a Reading.
_RECORD: Final = struct.Struct("=q8d")
_NUMBER: Final = struct.Struct("=q")
_TRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds since some start, all taken at `now_s` of `time.perf_counter`; CPU seconds where it says so.

    `outer` and `inner` are two places of the main thread; where one is part of the other, it is the inner one.
    """

    now_s: float = 0.0
    cpu_s: float = 0.0
    main_cpu_s: float = 0.0
    outer_s: float = 0.0
    outer_cpu_s: float = 0.0
    inner_s: float = 0.0
    inner_cpu_s: float = 0.0
    count: float = 0.0


class Stopwatch:
    """The measured process' side. Owned by its main thread."""

    def __init__(self, directory: Path, process: Process) -> None:
        path = directory / process
        path.write_bytes(bytes(_RECORD.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _RECORD.size)
        self._number = 0
        self._outer_s = self._outer_cpu_s = self._inner_s = self._inner_cpu_s = 0.0
        self._count = 0

    def inner(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; what it gives is counted if it is a list."""

        def timed(*arguments: Any) -> Any:
            started_s, started_cpu_s = time.perf_counter(), time.thread_time()
            given = function(*arguments)
            self._inner_cpu_s += time.thread_time() - started_cpu_s
            self._inner_s += time.perf_counter() - started_s
            self._count += len(given) if isinstance(given, list) else 0
            return given

        return timed

    def outer(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; after it the numbers are there to be read."""

        def timed(*arguments: Any) -> Any:
            started_s, started_cpu_s = time.perf_counter(), time.thread_time()
            given = function(*arguments)
            main_cpu_s, now_s = time.thread_time(), time.perf_counter()
            self._outer_cpu_s += main_cpu_s - started_cpu_s
            self._outer_s += now_s - started_s
            self._publish(now_s, main_cpu_s)
            return given

        return timed

    def _publish(self, now_s: float, main_cpu_s: float) -> None:
        outer, inner = (self._outer_s, self._outer_cpu_s), (self._inner_s, self._inner_cpu_s)
        reading = (now_s, time.process_time(), main_cpu_s, *outer, *inner, self._count)
        _RECORD.pack_into(self._memory, 0, self._number + 1, *reading)
        self._number += 2
        _NUMBER.pack_into(self._memory, 0, self._number)


def read(directory: Path, process: Process) -> Reading:
    """The newest numbers. Errors: CallFailed when the process does not write any."""
    with suppress(FileNotFoundError):
        for _ in range(_TRIES):
            data = (directory / process).read_bytes()
            number, *reading = _RECORD.unpack(data)
            if number > 0 and number % 2 == 0 and data == (directory / process).read_bytes():
                return Reading(*reading)
    raise CallFailed(f"the {process} process has no stopwatch")
