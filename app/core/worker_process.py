"""One worker process as the server sees it: started, fed with frames, listened to, ended."""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from loguru import logger

from app.core import frames, machine
from app.core.event_stream import EventStream
from app.core.pulse import NUM_LOOKS, PulseWatch
from app.core.requests import Request
from app.errors import ModelUnavailable, ServerError

_EXIT_GRACE_S = 5.0
# A worker answers between two turns.
_ANSWER_S = 30.0
_TAIL_LINES = 40
# What a worker that hangs gets to say where its threads are.
_STACKS_S = 1.0
_STACK_LINES = 1000
_LINE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended: `load_error` is set when it said so itself, `cause` is one sentence."""

    cause: str
    load_error: str | None = None


class WorkerProcess(asyncio.Protocol):
    """A running worker. Owned by the event loop's thread."""

    def __init__(self, name: str, hang_timeout_s: float, on_ready: Callable[[frames.Ready], None]) -> None:
        self.name = name
        self.pid = 0
        # As it was last told.
        self.gpu_bytes = 0
        self._hang_timeout_s = hang_timeout_s
        self._hang: str | None = None
        self._pulse = PulseWatch()
        self._watching: asyncio.Task[None] | None = None
        self._on_ready = on_ready
        self._reader = frames.reader_of_server()
        self._streams: dict[int, EventStream] = {}
        self._next_id = 0
        self._inspections: dict[int, asyncio.Future[frames.CacheStats]] = {}
        self._load_error: str | None = None
        self._frame_error: str | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, load: frames.Load) -> None:
        """Start the process and tell it what to load. Errors: OSError when it cannot be started."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "app.worker", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    env=machine.worker_environment(os.environ),
                    limit=_LINE_BYTES,
                    # Ctrl-C in the terminal is for the server, which ends its workers in its own time.
                    start_new_session=True,
                )
            self.pid = self._process.pid
            await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()
            raise
        self._send(load)

    async def run(self) -> Exit:
        """Wait until the worker has ended; its requests have been failed by then."""
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("the worker was not started")
        output = asyncio.create_task(self._relay_output(process.stdout))
        try:
            await self._closed.wait()
            try:
                code = await asyncio.wait_for(process.wait(), _EXIT_GRACE_S)
            except TimeoutError:
                process.kill()
                code = await process.wait()
            await output
        finally:
            output.cancel()
            if self._watching is not None:
                self._watching.cancel()
        if self._hang is not None:
            self._log_stacks(self._hang)
        return self._fail_all(Exit(self._cause(code), self._load_error))

    def submit(self, request: Request) -> EventStream:
        """Send a request; its events arrive in the returned stream."""
        self._next_id += 1
        stream = EventStream(self._next_id, self._cancel)
        self._streams[stream.id] = stream
        self._send(frames.Submit(stream.id, request))
        return stream

    async def inspect(self, *, clears: bool) -> frames.CacheStats:
        """How the worker's caches are, before they are emptied if `clears`.

        Errors: ModelUnavailable when it ends or does not answer.
        """
        self._next_id += 1
        inspect_id = self._next_id
        answer = self._inspections[inspect_id] = asyncio.get_running_loop().create_future()
        self._send(frames.Inspect(inspect_id, clears))
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            raise ModelUnavailable(f"Model '{self.name}' is too busy to answer; try again.", retry_after_s=5) from None
        finally:
            del self._inspections[inspect_id]

    def fail_streams(self, error: ServerError) -> None:
        """End every running request with `error`."""
        for stream in list(self._streams.values()):
            stream.fail(error)

    async def finish(self, timeout_s: float) -> None:
        """Let the worker save what is to outlive it, and wait for its end no longer than `timeout_s`."""
        self._send(frames.Close())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), timeout_s)

    def close(self) -> None:
        """Ask the worker to exit: it does when its socket closes."""
        if self._transport is not None:
            self._transport.close()

    def kill(self) -> None:
        """End the worker now."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _begin_watch(self) -> None:
        # Not while it loads: how long that may take nobody knows, and it can be broken off.
        if self._hang_timeout_s:
            self._watching = asyncio.create_task(self._watch(), name=f"watching {self.name}")

    async def _watch(self) -> None:
        """Ask the worker how far it is, until it hangs; then end it, and let it say where its threads are before."""
        while self._pulse.fault is None:
            if self._pulse.is_answered:
                self._send(frames.Ping())
            self._pulse.look()
            await asyncio.sleep(self._hang_timeout_s / NUM_LOOKS)
        self._hang = f"{self._pulse.fault} for {self._hang_timeout_s:g} s; it was killed"
        self._tail = deque(maxlen=_STACK_LINES)
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(_STACKS_S)
        self.kill()

    def _log_stacks(self, hang: str) -> None:
        if any(line.lstrip().startswith("File ") for line in self._tail):
            logger.error("{}: {}; the stacks of its threads:\n{}", self.name, hang, "\n".join(self._tail))
        else:
            logger.error("{}: {}; it gave no stack, perhaps because it was stopped by a signal", self.name, hang)

    def _cancel(self, stream_id: int) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._send(frames.Cancel(stream_id))

    def _send(self, message: frames.ToWorker) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames.encode(message))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._reader.feed(data):
                self._take(message)
        except frames.FrameError as error:
            self._frame_error = str(error)
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def _take(self, message: frames.ToServer) -> None:
        match message:
            case frames.Turn(events):
                streams = self._streams
                for stream_id, event in events:
                    if (stream := streams.get(stream_id)) is not None:
                        stream.push(event)
                        if stream.is_over:
                            del streams[stream_id]
            case frames.Progress(sentence):
                logger.info("{}: {}", self.name, sentence)
            case frames.Ready():
                self.gpu_bytes = message.gpu_bytes
                self._begin_watch()
                self._on_ready(message)
            case frames.Pulse():
                self.gpu_bytes = message.gpu_bytes
                self._pulse.note(message)
            case frames.LoadFailed(reason):
                self._load_error = reason
            case frames.Inspected(inspect_id, caches):
                if (answer := self._inspections.get(inspect_id)) is not None and not answer.done():
                    answer.set_result(caches)
            case frames.LogLine(level, text):
                logger.log(level, "{}: {}", self.name, text)

    async def _relay_output(self, output: asyncio.StreamReader) -> None:
        """Copy what libraries print to the log, and keep the end of it: it names the cause of a crash."""
        while True:
            try:
                line = await output.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError as overrun:
                line = await output.read(max(1, overrun.consumed))
            if not line:
                return
            if text := line.decode("utf-8", "replace").rstrip():
                self._tail.append(text)
                logger.debug("{} prints: {}", self.name, text)

    def _cause(self, code: int) -> str:
        if self._frame_error:
            return f"it sent something unreadable ({self._frame_error})"
        if self._hang is not None:
            return self._hang
        how = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it exited with status {code}"
        if code == -signal.SIGKILL:
            how += ", as a system does whose memory runs out"
        return f"{how}; its last words: {self._tail[-1]}" if self._tail else how

    def _fail_all(self, exit_: Exit) -> Exit:
        message = f"The process that runs model '{self.name}' ended unexpectedly: {exit_.cause.split(';')[0]}."
        error = ModelUnavailable(f"{message} It is being restarted; try again.", retry_after_s=1)
        for stream in list(self._streams.values()):
            stream.fail(error)
        for answer in self._inspections.values():
            if not answer.done():
                answer.set_exception(error)
        self._streams.clear()
        return exit_
