"""How the server's processes are: memory and open files, on Linux and macOS."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.bench.endpoint import CallFailed


@dataclass(frozen=True, slots=True)
class Vitals:
    """The server and its only worker at a moment of `time.monotonic`."""

    at_s: float
    worker_pid: int
    server_bytes: int
    worker_bytes: int
    num_server_files: int
    num_worker_files: int


def look(server_pid: int, at_s: float) -> Vitals:
    """Ask the system. Errors: CallFailed when there is no server, or not exactly one worker."""
    rows = [tuple(map(int, line.split())) for line in _output("ps", "-A", "-o", "pid=,ppid=,rss=").splitlines()]
    resident = {pid: 1024 * size for pid, _, size in rows}
    # A process that has ended and was not waited for has no memory.
    workers = [pid for pid, parent, size in rows if parent == server_pid and size]
    if server_pid not in resident or len(workers) != 1:
        raise CallFailed(f"the server is gone, or has {len(workers)} workers")
    (worker,) = workers
    files = [_num_files(pid) for pid in (server_pid, worker)]
    return Vitals(at_s, worker, resident[server_pid], resident[worker], *files)


def cpu_s(pid: int) -> float:
    """The CPU seconds that a process has used."""
    if sys.platform == "linux":
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return clock_s(_output("ps", "-o", "time=", "-p", str(pid)))


def clock_s(text: str) -> float:
    """What ps says, hours:minutes:seconds or without the hours, in seconds."""
    return sum(60**place * float(part) for place, part in enumerate(reversed(text.split(":"))))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits best; 0 where there are no two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _num_files(pid: int) -> int:
    if sys.platform == "linux":
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return _output("lsof", "-w", "-p", str(pid)).count("\n")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
