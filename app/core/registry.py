"""The served models: which exist, in what state, and the one verb to use one (`Registry.run`)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from app.core import machine
from app.core.event_stream import EventStream
from app.core.record import RequestRecord
from app.core.requests import Request
from app.core.residency import Residency
from app.core.room import Limits
from app.core.served_model import ServedModel
from app.errors import ModelNotFound, ShuttingDown
from app.settings import ModelSpec


class Registry:
    """All models of this server, by the name they are served under. Owned by the event loop's thread."""

    def __init__(self, specs: tuple[ModelSpec, ...], cache_dir: Path, limits: Limits | None = None) -> None:
        self.limits = limits or Limits(len(specs), machine.memory_bytes())
        residency = Residency(self.limits)
        self.models = {spec.name: ServedModel(spec, cache_dir, residency) for spec in specs}
        self._draining = False

    def start(self) -> None:
        """Start loading every model that is not on demand; returns at once."""
        for model in self.models.values():
            model.life.start()

    async def wait_until_loaded(self) -> bool:
        """Wait until every model that is not on demand is ready or has failed; whether any can be used."""
        await asyncio.gather(*(model.life.settled.wait() for model in self.models.values()))
        return any(model.state != "failed" for model in self.models.values())

    async def close(self) -> None:
        """End every worker and wait until all are gone."""
        await asyncio.gather(*(model.life.close() for model in self.models.values()))

    def drain(self, timeout_s: float) -> None:
        """Admit nobody any more; what still runs after `timeout_s` is ended with an error."""
        self._draining = True
        for model in self.models.values():
            model.life.drain(self._shutting_down(), timeout_s)

    def find(self, name: str | None) -> ServedModel:
        """The model a request means: the only one whatever the name, else the one of that name.

        Errors: ModelNotFound.
        """
        if len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is not None and (model := self.models.get(name)):
            return model
        served = ", ".join(f"'{other}'" for other in self.models)
        asked = "No model was named" if name is None else f"The model '{name}' is not served here"
        raise ModelNotFound(f"{asked}; this server has {served}.", param="model")

    def named(self, name: str, param: str | None = None) -> ServedModel:
        """The model of exactly this name. Errors: ModelNotFound."""
        if name not in self.models:
            raise ModelNotFound(
                f"The model '{name}' is not served here; GET /v1/models lists those that are.", param=param
            )
        return self.models[name]

    async def load(self, name: str) -> ServedModel:
        """Load the model of exactly this name and wait until it is. Errors: ModelNotFound, and those of `run`."""
        model = self.named(name, param="model")
        if self._draining:
            raise self._shutting_down()
        await model.load()
        return model

    @asynccontextmanager
    async def run(self, name: str | None, request: Request, record: RequestRecord) -> AsyncGenerator[EventStream]:
        """Run `request` on a model: its slot and lease are held, and its work goes on, until the block is left.

        Errors: ModelNotFound, InvalidRequest when the model is of another kind, QueueFull, QueueTimeout, ShuttingDown,
        ModelUnavailable; while reading the stream also RequestTimeout and whatever the worker reports.
        """
        model = self.find(name)
        record.model = model.spec.name
        if self._draining:
            raise self._shutting_down()
        async with model.run(request, record) as stream:
            yield stream

    @staticmethod
    def _shutting_down() -> ShuttingDown:
        return ShuttingDown("The server is shutting down; try again later.", retry_after_s=5)
