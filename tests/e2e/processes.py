"""The real server as a process of its own: started on a free port, watched through its log, ended with its workers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 40.0


def eventually(condition: Callable[[], object], what: str, poll_s: float = 0.02) -> None:
    """Poll until `condition` holds; the test fails with `what` when it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(poll_s)


class ServerProcess:
    """`python -m app.main` in an empty folder and environment; when the block is left, no process of it is."""

    def __init__(self, directory: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.arguments = [str(argument) for argument in arguments]
        self.log_path = directory / "server.out"
        # LD_PRELOAD is set so that the server leaves it alone: results must not depend on an installed OpenBLAS.
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "LD_PRELOAD": "",
            **(environment or {}),
        }
        self._tree: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(timeout=_PATIENCE_S, trust_env=False)
        self.url = ""
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
                self.wait()
        finally:
            self._client.close()
            self.kill_all()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Start it and wait for its banner, which names the port, or for its end."""
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.main", "--port", "0", *self.arguments],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(lambda: self._find_port() or self._has_ended(), "the banner")

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def _find_port(self) -> bool:
        if match := re.search(r"at (http://127\.0\.0\.1:(\d+)) ", self.log()):
            self.url, self.port = match[1], int(match[2])
        return self.port > 0

    def wait_until_ready(self) -> Self:
        """Wait until every model is ready."""

        def is_ready() -> bool:
            assert not self._has_ended(), f"the server ended:\n{self.log()}"
            return self.get("/health").status_code == 200

        eventually(is_ready, "the server is healthy")
        self._tree |= descendants(self.pid)
        return self

    def get(self, path: str, /, **headers: str) -> httpx.Response:
        return self._client.get(f"{self.url}{path}", headers=headers)

    def post(self, body: object, path: str = "/v1/chat/completions", /, **headers: str) -> httpx.Response:
        return self._client.post(f"{self.url}{path}", json=body, headers=headers)

    def send(self, method: str, path: str, content: bytes = b"", /, **headers: str) -> httpx.Response:
        """Send a body as it is."""
        return self._client.request(method, f"{self.url}{path}", content=content, headers=headers)

    def stats(self, model: str | None = None, key: str = "") -> dict[str, Any]:
        reply = self.get("/v1/queue/stats", **{"x-api-key": key}).json()
        return reply["queue_stats"] if model is None else reply["models"][model]

    def wait_for_load(self, *, active: int, waiting: int, model: str | None = None, key: str = "") -> None:
        """Wait until exactly so many requests run and wait."""

        def is_so() -> bool:
            stats = self.stats(model, key)
            return (stats["active_requests"], stats["queue_size"]) == (active, waiting)

        eventually(is_so, f"{active} active and {waiting} waiting")

    def wait_until_idle(self, model: str | None = None) -> None:
        """Wait until nothing runs or waits, and no worker computes for a request that is gone."""
        self.wait_for_load(active=0, waiting=0, model=model)
        before: list[str] = []

        def is_resting() -> bool:
            nonlocal before
            last, before = before, [_cpu_time(pid) for pid in self.workers()]
            return last == before

        eventually(is_resting, "the workers rest", poll_s=0.1)

    def workers(self) -> list[int]:
        """The process ids of the workers, in the order of the models unless one was restarted."""
        return sorted(pid for pid, parent in processes().items() if parent == self.pid)

    def worker_of(self, model: str) -> int:
        """The process id of a model's newest worker that is ready: several models start at once, in any order."""
        *_, worker = re.findall(rf"{re.escape(model)}: ready in .* process (\d+)\)", self.log())
        return int(worker)

    def signal(self, number: int) -> None:
        self._tree |= descendants(self.pid)
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the server and of every process it started; gives its exit status."""
        status = self.process.wait(_PATIENCE_S)
        eventually(lambda: not self.survivors(), f"the end of {self._tree}")
        return status

    def survivors(self) -> set[int]:
        return self._tree & processes().keys()

    def kill_all(self) -> None:
        """For a test that failed: leave nothing behind all the same."""
        if self.process.poll() is None:
            self._tree |= descendants(self.pid)
            self.process.kill()
            self.process.wait()
        for pid in self.survivors():
            os.kill(pid, signal.SIGKILL)

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")


def processes() -> dict[int, int]:
    """Every running process, with its parent; zombies are not running."""
    return {pid: parent for pid, parent, state in _process_rows() if not state.startswith("Z")}


def descendants(pid: int) -> set[int]:
    """`pid` and every process below it."""
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return found


def resident_bytes(pid: int) -> int:
    return int(_ps("-o", "rss=", "-p", str(pid))) * 1024


def mapped_files(pid: int) -> str:
    """The files that a process has mapped, its shared libraries among them."""
    if sys.platform == "linux":
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return _output("lsof", "-p", str(pid))


def _process_rows() -> Iterator[tuple[int, int, str]]:
    if sys.platform != "linux":
        for line in _ps("-A", "-o", "pid=,ppid=,stat=").splitlines():
            pid, parent, state = line.split()
            yield int(pid), int(parent), state
        return
    for path in Path("/proc").glob("[0-9]*/stat"):
        if fields := _stat_fields(path):
            yield int(path.parent.name), int(fields[1]), fields[0]


def _stat_fields(path: Path) -> list[str]:
    """The fields of /proc/PID/stat after the program's name, which may hold spaces; none when it is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_time(pid: int) -> str:
    if sys.platform != "linux":
        return _ps("-o", "time=", "-p", str(pid))
    return " ".join(_stat_fields(Path(f"/proc/{pid}/stat"))[11:13])


def _ps(*arguments: str) -> str:
    return _output("ps", *arguments)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
