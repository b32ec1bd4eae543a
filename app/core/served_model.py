"""One served model: requests are run on it, whatever state it is in."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from app.core import frames
from app.core.admission import Admission
from app.core.event_stream import EventStream
from app.core.lifecycle import Lifecycle, State
from app.core.record import RequestRecord
from app.core.requests import ENDPOINT_OF_KIND, KINDS_OF_REQUEST, Kind, Request, TokenRequest, VoicesRequest
from app.core.residency import Residency
from app.errors import Conflict, InvalidRequest, ModelNotFound, ModelUnavailable, QueueTimeout, RequestTimeout
from app.settings import ModelSpec

DEFAULT_CONCURRENCY: dict[Kind, int] = {
    "lm": 16,
    "vlm": 16,
    "embeddings": 16,
    "whisper": 1,
    "speech": 1,
    "images": 1,
}


class ServedModel:
    """A model as requests see it; `life` loads and unloads it. Owned by the event loop's thread."""

    def __init__(self, spec: ModelSpec, cache_dir: Path, residency: Residency) -> None:
        self.spec = spec
        self.created = int(time.time())
        # No longer served: who still comes is told so.
        self.is_withdrawn = False
        load = frames.Load(spec.model_dump_json(), str(cache_dir))
        self.life = Lifecycle(spec, load, residency, lambda: self.max_concurrency)

    def id_of(self, asked: str | None) -> str:
        """What a request for `asked` is counted under: the adapter of that name, else the model itself."""
        return asked if asked is not None and asked in self.spec.adapters else self.spec.name

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self.life.state

    @property
    def reason(self) -> str | None:
        """Why it is not ready, where there is more to say than its state."""
        return self.life.waits_for or self.life.reason

    @property
    def info(self) -> frames.ModelInfo | None:
        """What it turned out to be when it was last loaded."""
        return self.life.info

    @property
    def kind(self) -> Kind | None:
        """What kind of model it is, as far as that is known: from its files, while it is not loaded."""
        files = self.life.disk.files
        if self.info is not None and (files is None or self.life.worker is not None):
            return self.info.kind
        return files.kind if files is not None else None

    @property
    def context_length(self) -> int | None:
        """Its context in tokens, as far as that is known."""
        if self.info is not None:
            return self.info.context_length
        return self.life.disk.files.context_length if self.life.disk.files is not None else None

    @property
    def admission(self) -> Admission:
        """The line of its requests."""
        return self.life.line.admission

    @property
    def num_leases(self) -> int:
        """Requests that run or wait."""
        return self.life.line.num_leases

    @property
    def num_restarts(self) -> int:
        """Workers that died and were replaced."""
        return self.life.num_restarts

    @property
    def worker_pid(self) -> int | None:
        """The process id of the running worker."""
        return None if self.life.worker is None else self.life.worker.pid

    @property
    def max_concurrency(self) -> int:
        """Requests that run at once when the model is ready."""
        return self.spec.max_concurrency or DEFAULT_CONCURRENCY[self.kind or "lm"]

    async def inspect(self, *, clears: bool = False) -> frames.CacheStats:
        """How the caches are, before they are emptied if `clears`; all zeros while there is no worker to ask.

        Asked past the line: it is answered while every slot is taken. Errors: ModelUnavailable; Conflict where there
        may be files to be removed and no worker that knows them.
        """
        if self.life.worker is None or self.state != "ready":
            if clears and self.spec.prompt_cache_dir is not None and self.kind in ("lm", "vlm", None):
                raise Conflict(
                    f"Model '{self.spec.name}' is {self.state}: what it keeps in --prompt-cache-dir can only be removed"
                    " while it is ready. Load it (POST /v1/models/load), then send this again."
                )
            return frames.CacheStats()
        return await self.life.worker.inspect(clears=clears)

    async def load(self) -> None:
        """Load the model if it is not, and wait until it is, as a request would. Errors: those of `Registry.run`."""
        self._check_is_served()
        with self.life.line.lease():
            self.life.want()
            async with self._slot("", None, is_short=True):
                pass

    async def unload(self, timeout_s: float) -> None:
        """Unload the model when its requests are through, or break off its loading.

        Errors: Conflict where they take longer than `timeout_s`, and the model stays, or while it waits to be loaded;
        ModelNotFound where it is no longer served.
        """
        self._check_is_served()
        name, life = self.spec.name, self.life
        before = life.num_unloads
        try:
            async with asyncio.timeout(timeout_s):
                while life.num_unloads == before and life.state not in ("unloaded", "failed"):
                    life.begin_unload("as it was asked")
                    if life.state in ("loading", "restarting") and not life.break_off(
                        ModelUnavailable(f"Loading model '{name}' was broken off by hand.", retry_after_s=5)
                    ):
                        raise Conflict(f"Model '{name}' is {self.state}: there is nothing to unload.", retry_after_s=5)
                    await life.next_state()
        except TimeoutError:
            life.stay()
            if life.state != "unloading":
                raise Conflict(
                    f"Model '{name}' still works on {life.line.num_active} requests after {timeout_s:g} s; it stays"
                    " loaded. Try again later.",
                    retry_after_s=5,
                ) from None
            # Nobody uses it any more, and its process is on its way out.
            while life.num_unloads == before and life.state == "unloading":
                await life.next_state()

    async def withdraw(self, timeout_s: float) -> None:
        """Unload the model for good when its requests are through; who waits then, or comes, gets ModelNotFound.

        Errors: those of `unload`; then it is served as before.
        """
        await self.unload(timeout_s)
        self.is_withdrawn = True
        self.life.line.fail_waiting(self._not_served())
        await self.life.close()

    @asynccontextmanager
    async def run(self, request: Request, record: RequestRecord) -> AsyncGenerator[EventStream]:
        """See `Registry.run`."""
        if self.life.worker is None and not self._takes(request):
            # Another model may lie there by now.
            await self.life.disk.look()
        self._check_is_served()
        self._check_kind(request)
        timeout_s = min(filter(None, (self.spec.request_timeout, record.timeout_s)), default=None)
        with self.life.line.lease():
            self.life.want(is_patient=True)
            # A request that may live no longer than it has to wait is not kept waiting any longer.
            is_short = isinstance(request, TokenRequest | VoicesRequest)
            async with self._slot(record.client, timeout_s, is_short=is_short):
                record.waited_s = time.monotonic() - record.started_at
                self._check_kind(request)
                stream = self._submit(request)
                try:
                    async with _time_limit(timeout_s, record):
                        yield stream
                finally:
                    stream.close()

    @asynccontextmanager
    async def _slot(self, client: str, longest_wait_s: float | None, *, is_short: bool) -> AsyncGenerator[None]:
        try:
            async with self.life.line.slot(client, longest_wait_s, is_short=is_short):
                yield
        except QueueTimeout as error:
            if self.life.waits_for is None:
                raise
            waited_s = min(filter(None, (self.spec.queue_timeout, longest_wait_s)))
            raise QueueTimeout(
                f"Model '{self.spec.name}' was not loaded within {waited_s:g} s: {self.life.waits_for}; try again"
                " later.",
                retry_after_s=error.retry_after_s,
            ) from None

    def _submit(self, request: Request) -> EventStream:
        # A model that is to be unloaded waits for those who have a slot.
        if self.life.worker is None or self.state not in ("ready", "unloading"):
            raise ModelUnavailable(f"Model '{self.spec.name}' is not running; try again.", retry_after_s=1)
        return self.life.worker.submit(request)

    def _check_is_served(self) -> None:
        if self.is_withdrawn:
            raise self._not_served()

    def _not_served(self) -> ModelNotFound:
        return ModelNotFound(f"The model '{self.spec.name}' is no longer served here.", param="model")

    def _takes(self, request: Request) -> bool:
        return self.kind is None or self.kind in KINDS_OF_REQUEST[type(request)]

    def _check_kind(self, request: Request) -> None:
        if self.kind is not None and not self._takes(request):
            raise InvalidRequest(
                f"'{self.spec.name}' is a model of kind {self.kind}; use {ENDPOINT_OF_KIND[self.kind]}.",
                param="model",
            )


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
