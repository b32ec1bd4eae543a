"""Work in a thread that nobody waits for at the end."""

import subprocess
import sys
import threading

import pytest

from app.core.own_thread import run_in_own_thread
from tests.fixtures.serving import PATIENCE_S

_ENDLESS = """
import asyncio, threading
from app.core.own_thread import run_in_own_thread

async def main():
    has_begun, late = threading.Event(), threading.Event()
    def work():
        has_begun.set()
        late.wait()
    def soon():
        return 1
    asking = asyncio.create_task(run_in_own_thread(work, "endless"))
    while not has_begun.is_set():
        await asyncio.sleep(0.01)
    asking.cancel()
    print(await run_in_own_thread(soon, "soon"))

asyncio.run(main())
"""


async def test_what_comes_of_it() -> None:
    assert await run_in_own_thread(lambda: threading.current_thread().name, "own") == "own"
    with pytest.raises(ZeroDivisionError):
        await run_in_own_thread(lambda: 1 // 0, "own")


def test_the_process_ends_without_it() -> None:
    command = [sys.executable, "-c", _ENDLESS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
