"""The served models: which exist, in what state, and the one verb to use one (`Registry.run`)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from app.core import machine
from app.core.event_stream import EventStream
from app.core.found_models import FoundModels, Search
from app.core.record import RequestRecord
from app.core.requests import GenerationRequest, Request
from app.core.residency import Residency
from app.core.room import Limits
from app.core.served_model import ServedModel
from app.errors import Conflict, ModelNotFound, ShuttingDown
from app.settings import ModelSpec

# In an error message: names, and characters of one that is not known.
_MOST_LISTED = 10
_LONGEST_SHOWN = 200


class Registry:
    """All models of this server, by the name they are served under. Owned by the event loop's thread."""

    def __init__(
        self, specs: tuple[ModelSpec, ...], cache_dir: Path, limits: Limits | None = None, search: Search | None = None
    ) -> None:
        self.limits = limits or Limits(len(specs), machine.memory_bytes())
        self._residency = residency = Residency(self.limits)
        # Those that the settings name.
        self.configured = {spec.name: ServedModel(spec, cache_dir, residency) for spec in specs}
        taken = frozenset(name for spec in specs for name in spec.ids)
        serve = partial(ServedModel, cache_dir=cache_dir, residency=residency)
        self._found = FoundModels(search, serve, taken) if search else None
        self._draining = False

    @property
    def models(self) -> dict[str, ServedModel]:
        """Those that are configured, then those that were found."""
        return self.configured if self._found is None else {**self.configured, **self._found.models}

    @property
    def served(self) -> dict[str, ServedModel]:
        """Every id that a request may name: the models', and after each those of its adapters."""
        configured = {name: model for model in self.configured.values() for name in model.spec.ids}
        return configured if self._found is None else {**configured, **self._found.models}

    def start(self) -> None:
        """Start loading every model that is not on demand, and looking for those to be found; returns at once."""
        for model in self.configured.values():
            model.life.start()
        if self._found is not None:
            self._residency.wait_for(self._found.start())

    async def refresh(self) -> None:
        """Look which models are there that nobody has configured."""
        if self._found is not None:
            await self._found.refresh()

    async def wait_until_loaded(self) -> bool:
        """Wait until every model that is not on demand is ready or has failed; whether any can be used."""
        await asyncio.gather(*(model.life.settled.wait() for model in self.models.values()))
        # What is not there yet may be found later.
        return self._found is not None or any(model.state != "failed" for model in self.models.values())

    async def close(self) -> None:
        """End every worker and wait until all are gone."""
        if self._found is not None:
            await self._found.close()
        await asyncio.gather(*(model.life.close() for model in self.models.values()))

    def drain(self, timeout_s: float) -> None:
        """Admit nobody any more; what still runs after `timeout_s` is ended with an error."""
        self._draining = True
        for model in self.models.values():
            model.life.drain(self._shutting_down(), timeout_s)

    async def seek(self, name: str | None) -> ServedModel:
        """As `find`, after a look at the disk where the name is not known. Errors: ModelNotFound."""
        if self._found is not None and name is not None:
            await self._found.look_for(name)
        return self.find(name)

    def find(self, name: str | None) -> ServedModel:
        """The model a request means: the only one whatever the name, else the one of that name, or of an adapter's.

        Where it has adapters, or models are served that nobody has configured, only a request without a name means the
        only one. Errors: ModelNotFound.
        """
        served = self.served
        if name is not None and (model := served.get(name)):
            return model
        only = self.configured or self.models
        if len(only) == 1 and (name is None or (self._found is None and len(served) == 1)):
            return next(iter(only.values()))
        raise self._unknown(name, "model")

    async def named(self, name: str, param: str | None = None) -> ServedModel:
        """The model of exactly this name, or the one of the adapter of this name. Errors: ModelNotFound."""
        if self._found is not None:
            await self._found.look_for(name)
        if (model := self.served.get(name)) is None:
            raise self._unknown(name, param)
        return model

    async def delete(self, name: str, timeout_s: float) -> None:
        """Delete a model that was found in the hub's cache from disk, when the requests that run on it are through.

        Errors: ModelNotFound, Conflict.
        """
        model = await self.named(name)
        if self._found is None or self._found.models.get(name) is not model:
            raise Conflict(
                f"The model '{name}' is in this server's settings, whose next start would want it again: take it out"
                " there, and remove it with `mlx-openai-server models remove`."
            )
        others = [one.spec for one in self.models.values() if one is not model]
        await self._found.delete(name, timeout_s, others)

    async def load(self, name: str) -> ServedModel:
        """Load the model that `named` gives and wait until it is. Errors: ModelNotFound, and those of `run`."""
        model = await self.named(name, param="model")
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
        model = await self.seek(name)
        record.model = model.id_of(name)
        if isinstance(request, GenerationRequest) and record.model in model.spec.adapters:
            request = replace(request, adapter=record.model)
        if self._draining:
            raise self._shutting_down()
        async with model.run(request, record) as stream:
            yield stream

    def _unknown(self, name: str | None, param: str | None) -> ModelNotFound:
        # A client may send megabytes, which would be compared with every name.
        if name is not None and len(name) > _LONGEST_SHOWN:
            name = f"{name[:_LONGEST_SHOWN]}..."
        asked = "No model was named" if name is None else f"The model '{name}' is not served here"
        return ModelNotFound(f"{asked}; this server has {_listed(name, list(self.served))}.", param=param)

    @staticmethod
    def _shutting_down() -> ShuttingDown:
        return ShuttingDown("The server is shutting down; try again later.", retry_after_s=5)


def _listed(name: str | None, names: list[str]) -> str:
    """Some of the names: those that are most like the one that was asked for, else the first ones."""
    if not names:
        return "no model yet"
    shown = names if len(names) <= _MOST_LISTED else get_close_matches(name or "", names, _MOST_LISTED, 0.3)
    shown = shown or names[:_MOST_LISTED]
    more = len(names) - len(shown)
    text = ", ".join(f"'{one}'" for one in shown)
    return text + (f" and {more} more, which GET /v1/models lists" if more else "")
