"""Our own server, started for a measurement on a free port of this machine."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from app.bench.endpoint import CallFailed
from app.settings import MODEL_KNOBS, SERVER_KNOBS
from app.settings.knobs import variable_of
from bench import injected
from bench.stopwatch import VARIABLE

_ROOT = Path(__file__).parents[1]
_PATIENCE_S = 600.0
_POLL_S = 0.05
_CACHE_DIR_FLAG = "--prompt-cache-dir"


@dataclass(frozen=True, slots=True)
class Launched:
    """A server that is ready."""

    base_url: str
    pid: int


@contextmanager
def launched(folder: Path, directory: Path, *arguments: str, is_watched: bool = False) -> Generator[Launched]:
    """A server of the model. `directory` is its own: its log goes there, and what its stopwatches say if it has them.

    Errors: CallFailed when it does not start.
    """
    log_path = directory / "server.log"
    options = ["--port", "0", "--model-path", str(folder), "--max-concurrency", "64", *arguments]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.main", *options],
            cwd=directory,
            env=_environment() | (_stopwatches(directory) if is_watched else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield Launched(_wait_until_ready(process, log_path), process.pid)
    finally:
        process.terminate()
        process.wait()


def has_disk_cache() -> bool:
    """Whether the server can keep its prefix cache over a restart."""
    shown = subprocess.run(
        [sys.executable, "-m", "app.main", "launch", "--help"],
        cwd=_ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return _CACHE_DIR_FLAG in shown.stdout


def disk_cache(directory: Path) -> tuple[str, str]:
    """The arguments that make it keep the cache there."""
    return _CACHE_DIR_FLAG, str(directory)


def _environment() -> dict[str, str]:
    """Without the user's own settings: only what is asked here is measured."""
    settings = {variable_of(name) for knob in (*SERVER_KNOBS, *MODEL_KNOBS) for name in knob.names}
    kept = {name: value for name, value in os.environ.items() if name not in settings}
    return kept | {"PYTHONPATH": str(_ROOT)}


def _stopwatches(directory: Path) -> dict[str, str]:
    """What puts them into the server and its worker."""
    path = os.pathsep.join([*injected.__path__, str(_ROOT)])
    return {"PYTHONPATH": path, VARIABLE: str(directory)}


def _wait_until_ready(process: subprocess.Popen[bytes], log_path: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        log = log_path.read_text(encoding="utf-8", errors="replace")
        if process.poll() is not None:
            raise CallFailed(f"our server did not start: {(log.strip() or 'no output').splitlines()[-1]}")
        found = re.search(r"at (http://127\.0\.0\.1:\d+) ", log)
        if found and _is_ready(found[1]):
            return f"{found[1]}/v1"
        time.sleep(_POLL_S)
    raise CallFailed(f"our server was not ready after {_PATIENCE_S:g} s")


def _is_ready(url: str) -> bool:
    """Whether the model is loaded; until then /health answers 503."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/health") as reply:
            return reply.status == 200
    except URLError:
        return False
