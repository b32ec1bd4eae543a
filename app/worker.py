"""A worker's entry: `python -P -m app.worker FD` runs one model until the socket FD closes.

Three threads: this module's main thread loads, steps and frees the model; a reader takes frames from the socket; a
prepare thread turns requests into what the handler takes. They talk by queue.
"""

import contextlib
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from loguru import logger

from app.core import failures, frames
from app.core.events import Event, LastEvent
from app.core.requests import Request
from app.core.steps import Steps
from app.errors import InternalError, ModelLoadError, ServerError
from app.handler.base import AnyHandler
from app.settings import ModelSpec

if TYPE_CHECKING:
    from loguru import Message

    from app.handler.device import MemoryGauge

_RECEIVE_BYTES = 1 << 16
_SEND_BUFFER_BYTES = 1 << 20


class Job:
    """A request inside the worker. `is_cancelled` may be set by the reader at any time; the other threads only look."""

    __slots__ = ("id", "is_cancelled", "prepared", "request")

    def __init__(self, job_id: int, request: Request) -> None:
        self.id = job_id
        self.request = request
        self.is_cancelled = False
        self.prepared: Any = None  # what this handler's `prepare` gave


class Worker:
    """The three threads and what they share: two queues and the outgoing socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._connection = connection
        self._send_lock = threading.Lock()
        self._reader = frames.reader_of_worker()
        self._to_prepare: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._to_main: queue.SimpleQueue[Job | frames.Inspect | frames.Close] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._events: list[tuple[int, Event]] = []
        self._turns = Steps()
        self._preparations = Steps()
        # Once the model is loaded.
        self._memory: MemoryGauge | None = None

    def send(self, message: frames.ToServer) -> None:
        """Send a frame from any thread; blocks while the server does not read."""
        data = frames.encode(message)
        try:
            with self._send_lock:
                self._connection.sendall(data)
        except OSError:
            # The server is gone, and nobody else is there to serve.
            os._exit(0)

    def run(self) -> None:
        """Load the model and serve it; returns only when it cannot be loaded."""
        load = self._first_frame()
        # Before the loading, which may take minutes: the process ends with its socket at any time.
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            handler = self._load(load)
        except ModelLoadError as error:
            self.send(frames.LoadFailed(error.message))
            return
        threading.Thread(target=self._prepare, args=(handler,), name="prepare", daemon=True).start()
        while True:
            self._serve_turn(handler)

    def _first_frame(self) -> frames.Load:
        try:
            while data := self._connection.recv(_RECEIVE_BYTES):
                match self._reader.feed(data):
                    case [frames.Load() as load]:
                        return load
                    case []:
                        pass
                    case other:
                        raise frames.FrameError(f"the first frame must be Load, not {other!r}")
        except (OSError, frames.FrameError) as error:
            _break_off(error)
        sys.exit(0)

    def _load(self, load: frames.Load) -> AnyHandler:
        # Imported here: naming MLX costs half a second, and its failure is a load error like any other.
        try:
            from app.handler.device import MemoryGauge
            from app.handler.open import open_handler
        except ImportError as error:
            raise ModelLoadError(f"A library is missing: {error}.") from error
        spec = ModelSpec.model_validate_json(load.spec)
        handler = open_handler(
            spec, Path(load.cache_dir), self._emit, lambda s: self.send(frames.Progress(s)), load.memory_bytes
        )
        info = handler.load()
        self._memory = MemoryGauge()
        self._flush()
        self.send(frames.Ready(info, str(handler.folder), self._memory.gpu_bytes))
        return handler

    def _serve_turn(self, handler: AnyHandler) -> None:
        """One turn: take what the other threads sent, do a piece of work, send what came of it."""
        self._turns.begin()
        self._take_jobs(handler)
        try:
            is_busy = handler.turn()
        except Exception:
            # A defect outside any one row: nothing is known about the state of the model any more.
            logger.exception("a turn failed")
            os._exit(1)
        self._flush()
        if not is_busy:
            self._take(handler, self._next(handler))

    def _next(self, handler: AnyHandler) -> Job | frames.Inspect | frames.Close:
        """Wait for something to do, and let the handler tidy up meanwhile."""
        idle_since = time.monotonic()
        while True:
            pause_s = handler.rest(time.monotonic() - idle_since)
            self._turns.rest()
            try:
                return self._to_main.get(timeout=pause_s)
            except queue.Empty:
                continue
            finally:
                self._turns.begin()

    def _take_jobs(self, handler: AnyHandler) -> None:
        while not self._to_main.empty():
            self._take(handler, self._to_main.get())

    def _take(self, handler: AnyHandler, message: Job | frames.Inspect | frames.Close) -> None:
        match message:
            case Job():
                self._take_job(handler, message)
            case frames.Inspect(inspect_id, clears):
                stats = handler.inspect()
                if self._memory is not None:
                    stats = self._memory.completed(stats)
                if clears:
                    handler.clear_caches()
                self.send(frames.Inspected(inspect_id, stats))
            case frames.Close():
                handler.close()
                os._exit(0)

    def _take_job(self, handler: AnyHandler, job: Job) -> None:
        if job.is_cancelled:
            handler.cancel(job.id)
            return
        try:
            handler.submit(job.id, job.prepared)
        except ServerError as error:
            self._emit(job.id, failures.to_event(error))
        except Exception:
            logger.exception("request {} could not be taken in", job.id)
            self._emit(job.id, failures.to_event(InternalError()))

    def _emit(self, request_id: int, event: Event) -> None:
        self._events.append((request_id, event))
        if isinstance(event, LastEvent):
            self._jobs.pop(request_id, None)

    def _flush(self) -> None:
        """Send the turn's events in one frame."""
        if self._events:
            events, self._events = self._events, []
            self.send(frames.Turn(events))

    def _read(self) -> None:
        """The reader thread: frames in, until the server is gone; then the process is, too."""
        try:
            while data := self._connection.recv(_RECEIVE_BYTES):
                for message in self._reader.feed(data):
                    self._dispatch(message)
        except (OSError, frames.FrameError) as error:
            _break_off(error)
        # Not sys.exit: the main thread may be deep inside a step, and there is nothing to clean up.
        os._exit(0)

    def _dispatch(self, message: frames.ToWorker) -> None:
        match message:
            case frames.Submit(request_id, request):
                job = self._jobs[request_id] = Job(request_id, request)
                self._to_prepare.put(job)
            case frames.Cancel(request_id):
                if job := self._jobs.pop(request_id, None):
                    job.is_cancelled = True
                    self._to_main.put(job)
            case frames.Inspect() | frames.Close():
                self._to_main.put(message)
            case frames.Ping():
                gpu_bytes = self._memory.gpu_bytes if self._memory is not None else 0
                self.send(frames.Pulse(self._turns.current, self._preparations.current, gpu_bytes))
            case frames.Load():
                raise frames.FrameError("Load was sent twice")

    def _prepare(self, handler: AnyHandler) -> None:
        """The prepare thread: requests to what the handler takes, one at a time."""
        while True:
            self._preparations.rest()
            job = self._to_prepare.get()
            self._preparations.begin()
            if job.is_cancelled:
                continue
            try:
                job.prepared = handler.prepare(job.request)
            except ServerError as error:
                self._answer(job, failures.to_event(error))
            except Exception:
                logger.exception("request {} could not be prepared", job.id)
                self._answer(job, failures.to_event(InternalError()))
            else:
                if isinstance(job.prepared, LastEvent):
                    self._answer(job, job.prepared)
                else:
                    self._to_main.put(job)

    def _answer(self, job: Job, event: LastEvent) -> None:
        """Say all there is to say about a job that never reaches the main thread."""
        self._jobs.pop(job.id, None)
        self.send(frames.Turn([(job.id, event)]))


def _break_off(error: Exception) -> NoReturn:
    """End the process from any thread; the server shows the sentence as its last words."""
    # A server that was killed reads nothing any more, and the process is to end all the same.
    with contextlib.suppress(OSError):
        print(f"the connection to the server broke: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    """End the process with a thread of its own, without which it would be deaf; one of a library is its own affair."""
    try:
        threading.__excepthook__(failure)
    finally:
        if failure.thread is not None and failure.thread.name in ("reader", "prepare"):
            os._exit(1)


def _log_to_server(worker: Worker) -> None:
    """Send this process's log lines to the server, which owns the log and knows its level."""

    def sink(message: "Message") -> None:
        name = message.record["level"].name
        worker.send(frames.LogLine(name if name in ("DEBUG", "WARNING", "ERROR") else "INFO", message.rstrip()))

    logger.remove()
    logger.add(sink, level="DEBUG", format="{message}", backtrace=False, diagnose=False)


def main() -> None:
    """Run the worker on the socket whose descriptor is the only argument."""
    # The server decides when its workers end: they do when their socket closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Written from the signal itself, whatever the threads do and whoever holds the interpreter.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    threading.excepthook = _end_with_thread
    worker = Worker(socket.socket(fileno=int(sys.argv[1])))
    _log_to_server(worker)
    worker.run()


if __name__ == "__main__":
    main()
