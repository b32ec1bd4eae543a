"""Python runs this at the start of every process that has its folder in PYTHONPATH: it puts in the stopwatch.

The server and its worker are the real ones; nothing in them knows of it.
"""

import os
import sys
from pathlib import Path

from bench.stopwatch import VARIABLE, Stopwatch


def _watch_worker(directory: Path) -> None:
    """A worker's main thread: the decode step inside a turn of its handler, and what is done between two turns."""
    from app.handler.lm.batch import DecodeBatch
    from app.handler.lm.handler import LMHandler

    watch = Stopwatch(directory, "worker")
    DecodeBatch.step = watch.inner(DecodeBatch.step)
    LMHandler.turn = watch.outer(LMHandler.turn)


def _watch_server(directory: Path) -> None:
    """The server's event loop: taking a worker's frames apart, and making a stream's bytes of their events."""
    from app.api.chat.encoding import ChatStream
    from app.core.worker_process import WorkerProcess

    watch = Stopwatch(directory, "server")
    ChatStream.encode = watch.inner(ChatStream.encode)
    WorkerProcess.data_received = watch.outer(WorkerProcess.data_received)


if directory := os.environ.get(VARIABLE):
    if "app.worker" in sys.orig_argv:
        _watch_worker(Path(directory))
    elif "app.main" in sys.orig_argv:
        _watch_server(Path(directory))
