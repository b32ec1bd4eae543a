"""Models that nobody has configured: found on disk when models are listed, or when one is asked for by its name."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from loguru import logger

from app.core.own_thread import run_in_own_thread
from app.core.served_model import ServedModel
from app.errors import Conflict, ModelNotFound
from app.settings import ModelSpec

MOST_FOUND = 500
_MOST_LOGGED = 20


class Finder(Protocol):
    """Looks for models on disk. It blocks, and is asked from threads."""

    def find_all(self) -> Mapping[str, Path]:
        """Where each model lies that can be served, by its name; no more than `MOST_FOUND`."""
        ...

    def find(self, name: str) -> Path | None:
        """Where the model of that name lies. Errors: ModelNotFound where it is here and cannot be served."""
        ...

    def plan_removal(self, name: str, others: Sequence[ModelSpec]) -> Callable[[], None]:
        """What deletes a model, and nothing that `others` need. Errors: Conflict."""
        ...


@dataclass(frozen=True, slots=True)
class Search:
    """How models are found, and the settings that hold for each of them."""

    finder: Finder
    spec: ModelSpec


class FoundModels:
    """The models that were found when last looked for. Owned by the event loop's thread."""

    def __init__(self, search: Search, serve: Callable[[ModelSpec], ServedModel], taken: frozenset[str]) -> None:
        """Whatever is found under a name that is `taken` is not served."""
        # Another one after each change: whoever goes through them may take his time.
        self.models: Mapping[str, ServedModel] = {}
        self._finder = search.finder
        self._spec = search.spec
        self._serve = serve
        self._taken = taken
        self._one_at_a_time = asyncio.Lock()
        self._num_scans = 0
        self._deleting = set[str]()
        self._tasks = set[asyncio.Task[None]]()
        self._first_look: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to look for them, for whoever asks for metrics and the like before anybody lists them."""
        looking = self._first_look = asyncio.create_task(self.refresh(), name="first look for models")
        self._keep(looking)
        return looking

    async def refresh(self) -> None:
        """Look for all of them; what those are that are new is known afterwards, as far as it can be."""
        num_before = self._num_scans
        async with self._one_at_a_time:
            if self._num_scans > num_before:
                # Somebody began to look after this was asked for.
                return
            self._num_scans += 1
            found = await run_in_own_thread(self._finder.find_all, "look for models")
            known = self.models
            self._take(found, set(known) | set(found) - self._taken)
            new = [model for name, model in self.models.items() if known.get(name) is not model]
            if new:
                names = [one.spec.name for one in new[:_MOST_LOGGED]] + ["..."] * (len(new) > _MOST_LOGGED)
                logger.info("found {} models that can be served: {}", len(new), ", ".join(names))
            await asyncio.gather(*(model.life.is_known.wait() for model in new))

    async def look_for(self, name: str) -> None:
        """Look for one, unless it is known and can be used. Errors: ModelNotFound where it cannot be served."""
        model = self.models.get(name)
        if name in self._taken or (model is not None and model.state != "failed"):
            return
        async with self._one_at_a_time:
            try:
                place = await run_in_own_thread(partial(self._finder.find, name), "look for a model")
            except ModelNotFound:
                self._take({}, {name})
                raise
            self._take({name: place} if place is not None else {}, {name})
        if (model := self.models.get(name)) is not None:
            # What it is, as far as its files say it.
            await model.life.is_known.wait()
        elif place is not None and len(self.models) >= MOST_FOUND:
            raise ModelNotFound(
                f"This server keeps no more than {MOST_FOUND} models that it has found, and '{name}' is one more: say"
                " which it may find with --allow-models.",
                param="model",
            )

    async def delete(self, name: str, timeout_s: float, others: Sequence[ModelSpec]) -> None:
        """See `Registry.delete`; `others` are those that are served beside it."""
        model = self.models[name]
        if name in self._deleting:
            raise Conflict(f"The model '{name}' is being deleted already.")
        self._deleting.add(name)
        try:
            plan = partial(self._finder.plan_removal, name, others)
            remove = await run_in_own_thread(plan, "look before a deletion")
            await model.withdraw(timeout_s)
            self.models = {key: one for key, one in self.models.items() if one is not model}
            await asyncio.to_thread(remove)
            logger.info("{}: deleted from disk", name)
        finally:
            # A look that goes on now may have seen what is gone.
            async with self._one_at_a_time:
                self._deleting.discard(name)

    async def close(self) -> None:
        """Look no further, and wait until those that are no longer there are gone."""
        # Its thread may never end, as with a network drive that does not answer.
        if self._first_look is not None:
            self._first_look.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, found: Mapping[str, Path], names: set[str]) -> None:
        """Serve what was found of `names`; of the rest of them, what is loaded or asked for stays until it is not."""
        models = dict(self.models)
        # Those that go make room for others.
        for name in sorted(names, key=lambda one: one not in self.models):
            known, place = models.get(name), found.get(name)
            if known is not None and (str(place) == known.spec.model_path or _is_used(known)):
                continue
            if known is not None:
                del models[name]
                self._end(known)
            if place is not None and name not in self._deleting and len(models) < MOST_FOUND:
                model = models[name] = self._begin(name, place)
                model.life.start()
        self.models = dict(sorted(models.items()))

    def _begin(self, name: str, place: Path) -> ServedModel:
        return self._serve(self._spec.model_copy(update={"model_path": str(place), "served_model_name": name}))

    def _end(self, model: ServedModel) -> None:
        model.is_withdrawn = True
        self._keep(asyncio.create_task(model.life.close(), name=f"end of {model.spec.name}"))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_used(model: ServedModel) -> bool:
    return bool(model.num_leases) or model.state not in ("unloaded", "failed")
