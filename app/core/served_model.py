"""One served model: its worker kept alive, its line of requests, its state."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from loguru import logger

from app.core import frames
from app.core.admission import Admission
from app.core.event_stream import EventStream
from app.core.record import RequestRecord
from app.core.requests import ENDPOINT_OF_KIND, KIND_OF_REQUEST, Kind, Request, TokenRequest, VoicesRequest
from app.core.worker_process import WorkerProcess
from app.errors import InvalidRequest, ModelLoadError, ModelUnavailable, RequestTimeout, ServerError
from app.settings import ModelSpec

State = Literal["loading", "ready", "restarting", "failed", "stopped"]

DEFAULT_CONCURRENCY: dict[Kind, int] = {"lm": 16, "embeddings": 16, "whisper": 1, "speech": 1, "images": 1}
# The worker answers them one after the other: two keep it busy, and the others wait here, fairly.
_TOKEN_REQUESTS_AT_ONCE = 2
_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 30.0
# A worker that ran this long has earned a fresh start of the back-off.
_STABLE_S = 60.0
# What a worker gets to write its caches to disk before it is ended.
_SAVING_S = 10.0


class ServedModel:
    """A model and the worker process that runs it. Owned by the event loop's thread."""

    def __init__(self, spec: ModelSpec, cache_dir: Path) -> None:
        self.spec = spec
        self.state: State = "loading"
        self.reason: str | None = None
        self.info: frames.ModelInfo | None = None
        self.num_leases = 0
        self.num_restarts = 0
        self.created = int(time.time())
        self.admission = Admission(spec.queue_size, spec.queue_timeout)
        self._token_admission = Admission(spec.queue_size, spec.queue_timeout)
        self.loaded = asyncio.Event()
        self._load = frames.Load(spec.model_dump_json(), str(cache_dir))
        self._worker: WorkerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def worker_pid(self) -> int | None:
        """The process id of the running worker."""
        return None if self._worker is None else self._worker.pid

    @property
    def _is_stopped(self) -> bool:
        return self.state == "stopped"

    @property
    def max_concurrency(self) -> int:
        """Requests that run at once when the model is ready."""
        return self.spec.max_concurrency or DEFAULT_CONCURRENCY[self.info.kind if self.info else "lm"]

    def start(self) -> None:
        """Start the worker and keep it running; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"supervise {self.spec.name}")

    async def close(self) -> None:
        """End the worker and wait until it is gone."""
        was_ready = self.state == "ready"
        self.state = "stopped"
        self._close_admission()
        if self._supervisor is not None:
            if self._worker is not None:
                if was_ready and self.spec.prompt_cache_dir is not None:
                    await self._worker.finish(_SAVING_S)
                self._worker.close()
            else:
                self._supervisor.cancel()
            await asyncio.wait([self._supervisor])

    async def inspect(self, *, clears: bool = False) -> frames.CacheStats:
        """How the caches are, before they are emptied if `clears`; all zeros while there is no worker to ask.

        Asked past the line: it is answered while every slot is taken. Errors: ModelUnavailable.
        """
        if self._worker is None or self.state != "ready":
            return frames.CacheStats()
        return await self._worker.inspect(clears=clears)

    def drain(self, error: ServerError, timeout_s: float) -> None:
        """Turn away who waits with `error` now, and end who runs with it after `timeout_s`."""
        self._close_admission()
        self._fail_waiting(error)
        if self._worker is not None:
            asyncio.get_running_loop().call_later(timeout_s, self._worker.fail_streams, error)

    @asynccontextmanager
    async def run(self, request: Request, record: RequestRecord) -> AsyncGenerator[EventStream]:
        """See `Registry.run`."""
        if self.state == "failed":
            raise ModelLoadError(self.reason or "The model could not be loaded.")
        self._check_kind(request)
        self.num_leases += 1
        timeout_s = min(filter(None, (self.spec.request_timeout, record.timeout_s)), default=None)
        try:
            # A request that may live no longer than it has to wait is not kept waiting any longer.
            async with self._line_of(request).slot(record.client, timeout_s):
                record.waited_s = time.monotonic() - record.started_at
                self._check_kind(request)
                stream = self._submit(request)
                try:
                    async with _time_limit(timeout_s, record):
                        yield stream
                finally:
                    stream.close()
        finally:
            self.num_leases -= 1

    def _line_of(self, request: Request) -> Admission:
        """Who only asks for tokens or voices does not wait for those who generate."""
        return self._token_admission if isinstance(request, TokenRequest | VoicesRequest) else self.admission

    def _close_admission(self) -> None:
        self.admission.close()
        self._token_admission.close()

    def _fail_waiting(self, error: ServerError) -> None:
        self.admission.fail_waiting(error)
        self._token_admission.fail_waiting(error)

    def _submit(self, request: Request) -> EventStream:
        if self._worker is None or self.state != "ready":
            raise ModelUnavailable(f"Model '{self.spec.name}' is not running; try again.", retry_after_s=1)
        return self._worker.submit(request)

    def _check_kind(self, request: Request) -> None:
        kind = KIND_OF_REQUEST[type(request)]
        if self.info is not None and self.info.kind != kind:
            raise InvalidRequest(
                f"'{self.spec.name}' is a model of kind {self.info.kind}; use {ENDPOINT_OF_KIND[self.info.kind]}.",
                param="model",
            )

    async def _supervise(self) -> None:
        """Keep a worker running until the model is closed or cannot be loaded."""
        backoff_s = _FIRST_BACKOFF_S
        while not self._is_stopped:
            started = time.monotonic()
            error = await self._run_worker()
            self._close_admission()
            if self._is_stopped:
                return
            if error is not None:
                self._give_up(error)
                return
            if time.monotonic() - started > _STABLE_S:
                backoff_s = _FIRST_BACKOFF_S
            self.state = "restarting"
            self.num_restarts += 1
            logger.warning("{}: {}; starting it again in {:g} s", self.spec.name, self.reason, backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    async def _run_worker(self) -> str | None:
        """Run one worker to its end; gives the reason why trying again would be useless, if there is one."""
        worker = WorkerProcess(self.spec.name, self._ready)
        try:
            await worker.start(self._load)
        except OSError as error:
            return f"its process could not be started: {error}"
        self._worker = worker
        try:
            exit_ = await worker.run()
        finally:
            self._worker = None
        self.reason = f"the worker died: {exit_.cause}"
        return exit_.load_error

    def _ready(self, info: frames.ModelInfo) -> None:
        if self.state in ("stopped", "failed"):
            return
        self.info = info
        self.state = "ready"
        self.reason = None
        self.loaded.set()
        self.admission.open(self.max_concurrency)
        self._token_admission.open(_TOKEN_REQUESTS_AT_ONCE)
        logger.info(
            "{}: ready in {:.1f} s ({} {}, {} tokens of context, on {}; process {})",
            *(self.spec.name, info.load_s, info.kind, info.architecture, info.context_length, info.device),
            self.worker_pid,
        )

    def _give_up(self, reason: str) -> None:
        self.state = "failed"
        self.reason = reason
        self.loaded.set()
        logger.error("{} cannot be loaded: {}", self.spec.name, reason)
        self._fail_waiting(ModelLoadError(reason))


@asynccontextmanager
async def _time_limit(timeout_s: float | None, record: RequestRecord) -> AsyncGenerator[None]:
    """End the block `timeout_s` after the request arrived, even where it waits for a client that does not read.

    Errors: RequestTimeout.
    """
    if timeout_s is None:
        yield
        return
    limit = asyncio.timeout(record.started_at + timeout_s - time.monotonic())
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise RequestTimeout(f"The request ran longer than the limit of {timeout_s:g} s and was ended.") from None
