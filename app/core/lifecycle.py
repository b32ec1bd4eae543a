"""The life of one model: loaded when it is wanted, kept running, unloaded when it is not."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from loguru import logger

from app.core import frames, machine
from app.core.backoff import Backoff
from app.core.disk_view import DiskView
from app.core.idle_timer import IdleTimer
from app.core.line import ModelLine
from app.core.residency import Residency
from app.core.room import Phase
from app.core.worker_process import WorkerProcess
from app.errors import ModelLoadError, ModelUnavailable, ServerError
from app.settings import ModelSpec

State = Literal["unloaded", "loading", "ready", "unloading", "restarting", "failed", "stopped"]

_SAVING_S = 10.0  # what a worker gets to write its caches to disk before it is ended


class Lifecycle:
    """A model's state, and the worker process behind it. Owned by the event loop's thread.

    One task runs through the states; whoever wants the model sets `_wanted` and waits in its line.
    """

    def __init__(self, spec: ModelSpec, load: frames.Load, residency: Residency, num_slots: Callable[[], int]) -> None:
        self.spec = spec
        self.state: State = "unloaded" if spec.on_demand else "loading"
        self.reason: str | None = None
        self.waits_for: str | None = None
        self.info: frames.ModelInfo | None = None
        self.disk = DiskView(spec)
        self.worker: WorkerProcess | None = None
        self.num_loads = self.num_unloads = self.num_restarts = 0
        self.line = ModelLine(spec.queue_size, spec.queue_timeout, self._note_lease)
        self.settled = asyncio.Event()
        self.is_known = self.disk.is_known
        self._load = load
        self._residency = residency
        self._num_slots = num_slots
        self._backoff = Backoff()
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self._unloading: asyncio.Task[None] | None = None
        self._idle_timer = IdleTimer(spec.on_demand_idle_timeout if spec.on_demand else 0, self.begin_unload)
        self._task: asyncio.Task[None] | None = None
        residency.add(self)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    @property
    def is_on_demand(self) -> bool:
        """Whether it may be unloaded to make room."""
        return self.spec.on_demand

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it to be loaded; what is not on demand always is."""
        return bool(self.line.num_leases or not self.spec.on_demand)

    @property
    def phase(self) -> Phase:
        """What the model does with its room."""
        match self.state:
            case "ready":
                return "busy" if self.line.num_leases else "idle"
            case "loading" | "restarting":
                # Nobody waits for it any longer, perhaps because it never ends.
                return "loading" if self.is_wanted or self.worker is None else "idle"
            case _:
                return "leaving"

    @property
    def used_at(self) -> float:
        """When a request last came or went."""
        return self.line.used_at

    @property
    def expected_bytes(self) -> int:
        """Memory that the model is thought to take when it is loaded; 0 where nothing is known of it."""
        return self.disk.expected_bytes

    @property
    def resident_bytes(self) -> int:
        """Memory that its worker takes now."""
        return machine.resident_bytes(self.worker.pid, self.worker.gpu_bytes) if self.worker is not None else 0

    @property
    def _is_stopped(self) -> bool:
        return self.state == "stopped"

    def start(self) -> None:
        """Begin; a model that is not on demand is loaded at once."""
        if self.spec.on_demand:
            self.settled.set()
        else:
            self._wanted.set()
        self._task = asyncio.create_task(self._live(), name=f"life of {self.name}")

    def want(self, *, is_patient: bool = False) -> None:
        """See to it that the model is loaded. Errors: ModelLoadError after a failure just now, for who is patient."""
        if is_patient and self.state == "failed" and self._backoff.rest_s:
            raise ModelLoadError(self.reason or "It could not be loaded.", retry_after_s=max(1.0, self._backoff.rest_s))
        self._wanted.set()

    async def next_state(self) -> None:
        """Wait until the model is in another state."""
        await self._moved.wait()

    def begin_unload(self, why: str) -> None:
        """See `Tenant.begin_unload`."""
        if self.state == "ready":
            self._move("unloading", why)
            self.line.close()
            self._unloading = asyncio.create_task(self._end_worker(), name=f"unloading {self.name}")
        elif self.phase == "idle":
            self.break_off(ModelUnavailable(why))

    def break_off(self, error: ServerError) -> bool:
        """End the loading, with `error` for those who wait for it; False where there is no process yet that loads."""
        if self.worker is None or self.state not in ("loading", "restarting"):
            return False
        self._move("unloading", error.message)
        self.line.fail_waiting(error)
        self.worker.close()
        return True

    def stay(self) -> None:
        """See `Tenant.stay`."""
        if self.state == "unloading" and self._unloading is not None and self.line.num_active:
            self._unloading.cancel()
            self._move("ready", "it stays")
            self.line.open(self._num_slots())

    def drain(self, error: ServerError, timeout_s: float) -> None:
        """Turn away who waits with `error` now, and end who runs with it after `timeout_s`."""
        self.line.close()
        self.line.fail_waiting(error)
        if self.worker is not None:
            asyncio.get_running_loop().call_later(timeout_s, self.worker.fail_streams, error)

    async def close(self) -> None:
        """End the worker and wait until it is gone."""
        has_caches = self.state in ("ready", "unloading") and self.spec.prompt_cache_dir is not None
        self._move("stopped")
        self._residency.remove(self)
        self.line.close()
        self._idle_timer.stop()
        if self._unloading is not None:
            self._unloading.cancel()
        if self._task is None:
            return
        if self.worker is None:
            self._task.cancel()
        elif has_caches:
            await self.worker.finish(_SAVING_S)
        if self.worker is not None:
            self.worker.close()
        await asyncio.wait([self._task])
        await self.disk.close()

    async def _live(self) -> None:
        if self.spec.on_demand:
            # So that something is known of it before anybody asks for it.
            await self.disk.look()
        while not self._is_stopped:
            await self._until_wanted()
            self._move("loading")
            try:
                why = await self._stay_loaded()
            except ModelLoadError as error:
                self._give_up(error.message)
                continue
            if self._is_stopped:
                return
            if not self.line.num_leases:
                self._wanted.clear()
            self.num_unloads += 1
            self._move("unloaded", why)

    async def _until_wanted(self) -> None:
        """Wait until somebody wants it; what is to be there always is wanted again when the pause is over."""
        retries = self.state == "failed" and not self.spec.on_demand
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), self._backoff.rest_s if retries else None)

    async def _stay_loaded(self) -> str:
        """Load the model and keep it running until it is unloaded; gives the reason. Errors: ModelLoadError."""
        await self.disk.look()
        if not await self._residency.enter(self):
            return "nobody waits for it any longer"
        try:
            return await self._keep_running()
        finally:
            self._residency.leave(self)

    async def _keep_running(self) -> str:
        """Run one worker after the other until one was unloaded; gives the reason. Errors: ModelLoadError."""
        while True:
            num_loads = self.num_loads
            cause = await self._run_worker()
            self.line.close()
            self._idle_timer.stop()
            if self.state in ("unloading", "stopped"):
                self._backoff.reset()
                return cause if self._unloading is not None and not self._unloading.done() else ""
            if self.spec.on_demand and self.num_loads == num_loads:
                raise ModelLoadError(cause)
            if self._backoff.is_hopeless:
                raise ModelLoadError(f"{cause} (failure {self._backoff.num_failures + 1} in a row)")
            pause_s = self._backoff.fail()
            self.num_restarts += 1
            self.reason = cause
            self._move("restarting", f"{cause}; it is started again in {pause_s:g} s", "WARNING")
            await asyncio.sleep(pause_s)
            if not self.is_wanted:
                return "nobody waits for it"

    async def _run_worker(self) -> str:
        """Run one worker to its end; gives the cause. Errors: ModelLoadError where another would end as it did."""
        worker = WorkerProcess(self.name, self.spec.worker_hang_timeout, self._ready)
        memory_bytes = await self._residency.share_bytes(self)
        try:
            await worker.start(msgspec.structs.replace(self._load, memory_bytes=memory_bytes))
        except OSError as error:
            raise ModelLoadError(f"its process could not be started: {error}") from error
        self.worker = worker
        try:
            exit_ = await worker.run()
        finally:
            self.worker = None
        if exit_.load_error is not None and not self._is_stopped:
            raise ModelLoadError(exit_.load_error)
        return f"the worker died: {exit_.cause}"

    async def _end_worker(self) -> None:
        # If it dies before its requests are through, there may be another one afterwards.
        worker = self.worker
        await self.line.drained()
        if worker is not None:
            if self.spec.prompt_cache_dir is not None:
                await worker.finish(_SAVING_S)
            worker.close()

    def _ready(self, ready: frames.Ready) -> None:
        if self.state not in ("loading", "restarting"):
            return
        self.info = info = ready.info
        self.disk.note_folder(Path(ready.folder))
        self.num_loads += 1
        down_s = self._backoff.begin()
        self._move(
            "ready",
            f"in {info.load_s:.1f} s ({info.kind} {info.architecture}, {info.context_length} tokens of context,"
            f" on {info.device}; process {self.worker.pid if self.worker else 0})",
        )
        if down_s is not None:
            logger.info("{} is ready again after {:.1f} s", self.name, down_s)
        self.settled.set()
        self.line.open(self._num_slots())
        self._note_lease()

    def _give_up(self, reason: str) -> None:
        self._wanted.clear()
        pause_s = self._backoff.fail()
        self.reason = reason
        why = reason.removesuffix(".")
        self._move("failed", f"it cannot be loaded: {why}; the next try is due in {pause_s:g} s", "ERROR")
        self.settled.set()
        self.line.fail_waiting(ModelLoadError(reason))

    def _move(self, state: State, why: str = "", level: str = "INFO") -> None:
        """Be in another state, and say so."""
        self.state = state
        if state in ("ready", "unloaded"):
            self.reason = None
        logger.log(level, "{}: {}{}", self.name, state, f" {why}" if state == "ready" else f": {why}" if why else "")
        self._moved.set()
        self._moved = asyncio.Event()
        self._residency.stir()

    def _note_lease(self) -> None:
        """A request came or went: count the idle time anew."""
        self._idle_timer.stop()
        if self.line.num_leases:
            return
        self._residency.stir()
        if self.state == "ready":
            self._idle_timer.start()
