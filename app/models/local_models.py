"""The models on this machine that may be served without being configured: in a folder, and in the hub's cache."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

from app.core.found_models import MOST_FOUND
from app.core.model_files import place_in_cache, place_of
from app.errors import Conflict, ModelLoadError, ModelNotFound
from app.models.architectures import Architectures
from app.models.removal import Removal, plan_removal_from_cache
from app.models.servability import fault_of
from app.settings import ModelSpec, Settings

# Files and folders; a folder that holds more is somebody's home or a whole disk.
_MOST_LOOKED_AT = 10_000
_CACHED = "models--"
_SIGNS = ("config.json", "model_index.json", "transformer", "adapter_config.json")


class LocalModels:
    """Looks at the disk each time it is asked. Of a name that both places have, the folder's model is meant."""

    def __init__(self, models_dir: Path | None, patterns: Sequence[str] = (), *, has_cache: bool = False) -> None:
        self._models_dir = models_dir
        self._patterns = patterns or ("*",)
        self._has_cache = has_cache
        # Where a model lies that can be served, with the time of its folder's last change.
        self._sound: dict[Path, int] = {}

    def everything(self) -> Iterator[tuple[str, Path, str | None]]:
        """Names that are allowed, each with the place of its model and why that cannot be served."""
        seen = set[str]()
        for name, place in self._places():
            if name not in seen:
                seen.add(name)
                yield name, place, self._fault(place)

    def find_all(self) -> dict[str, Path]:
        """See `Finder.find_all`."""
        servable = ((name, place) for name, place, fault in self.everything() if fault is None)
        return dict(islice(servable, MOST_FOUND))

    def find(self, name: str) -> Path | None:
        """See `Finder.find`: only a name that a listing has is one, so that none leads anywhere else."""
        place = next((place for found, place in self._places() if found == name), None)
        if place is not None and (fault := self._fault(place)):
            raise ModelNotFound(f"The model '{name}' is on this machine and cannot be served: {fault}.", param="model")
        return place

    def plan_removal(self, name: str, others: Sequence[ModelSpec]) -> Callable[[], None]:
        """See `Finder.plan_removal`: only models of the hub's cache are deleted."""
        place = next((place for found, place in self._places() if found == name), None)
        if place is None or place != place_in_cache(name):
            raise Conflict(
                f"'{name}' lies in the folder of --models-dir, whose files are yours: only models in the cache of the"
                " Hugging Face hub, which can be fetched again, are deleted. Remove it by hand."
            )
        try:
            removal = plan_removal_from_cache(name)
            user = next((spec for spec in others if _needs(spec, removal.folder)), None)
        except ModelLoadError as error:
            raise Conflict(error.message) from error
        # How Python 3.11 and 3.12 say that a link leads to itself.
        except (OSError, RuntimeError) as error:
            raise Conflict(f"Whether another model needs the files of '{name}' cannot be seen: {error}.") from error
        if user is not None:
            raise Conflict(f"'{user.name}' is served here, too, and needs the files of '{name}'.")
        return partial(_remove, name, removal)

    @cached_property
    def _architectures(self) -> Architectures:
        return Architectures()

    def _places(self) -> Iterator[tuple[str, Path]]:
        places = islice(chain(self._in_folder(), self._in_cache()), _MOST_LOOKED_AT)
        return ((name, place) for name, place, is_model in places if is_model and self._is_allowed(name))

    def _in_folder(self) -> Iterator[tuple[str, Path, bool]]:
        """Whatever lies there, and whether it looks like a model."""
        if (root := self._models_dir) is None:
            return
        for path in _entries(root):
            is_model = _is_model(path)
            yield path.name, path, is_model
            if not is_model and not _leads_back(path, root):
                yield from ((f"{path.name}/{inner.name}", inner, _is_model(inner)) for inner in _entries(path))

    def _in_cache(self) -> Iterator[tuple[str, Path, bool]]:
        if not self._has_cache:
            return
        from huggingface_hub.constants import HF_HUB_CACHE

        for repository in _entries(Path(HF_HUB_CACHE)):
            name = repository.name.removeprefix(_CACHED).replace("--", "/")
            if repository.name.startswith(_CACHED) and (place := place_in_cache(name)) is not None:
                yield name, place, True

    def _is_allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _fault(self, place: Path) -> str | None:
        """Why a model cannot be served; that one can is not found out again while its folder does not change."""
        try:
            changed_at = place.stat().st_mtime_ns
            if place.is_file() or self._sound.get(place) == changed_at:
                return None
            fault = fault_of(place, self._architectures)
        except (OSError, ValueError, RecursionError) as error:
            return f"its files cannot be read: {error}"
        if fault is None:
            self._sound[place] = changed_at
        return fault


def problem_of_places(settings: Settings) -> str | None:
    """What is wrong with where models are to be found, in a sentence without its full stop."""
    folder = settings.models_dir
    try:
        if folder is not None and not folder.is_dir():
            fault = "is no folder: name" if folder.exists() else "does not exist: make it, or name"
            return f"the folder of --models-dir, {folder}, {fault} another one"
    except OSError as error:
        return f"the folder of --models-dir, {folder}, cannot be read ({error.strerror}): name another one"
    if settings.allow_models and not settings.finds_models:
        return "--allow-models has nowhere to find models: give --models-dir or --serve-hub-cache with it"
    if settings.allow_model_deletion and not settings.serve_hub_cache:
        return "--allow-model-deletion has nothing to delete: give --serve-hub-cache with it"
    return None


def open_local_models(settings: Settings) -> LocalModels:
    """Where the settings say that models are found."""
    return LocalModels(settings.models_dir, settings.allow_models, has_cache=settings.serve_hub_cache)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, but for what is hidden or has a name that no client could send."""
    try:
        paths = islice(folder.iterdir(), _MOST_LOOKED_AT)
        return sorted(path for path in paths if path.name.isprintable() and not path.name.startswith("."))
    except OSError:
        return []


def _remove(name: str, removal: Removal) -> None:
    """Errors: Conflict where something of it stays."""
    if not removal.carry_out():
        raise Conflict(f"'{name}' could not be removed whole; see whose the files are in '{removal.folder}'.")


def _places_of(spec: ModelSpec) -> Iterator[Path]:
    """Where the files lie that a model is loaded from, as far as they are on this machine."""
    named = (spec.model_path, spec.draft_model_path, *spec.lora_paths)
    yield from filter(None, (place_of(path) for path in named if path))
    given = (spec.adapter_path, *spec.adapters.values(), spec.chat_template_file, *map(Path, spec.lora_paths))
    yield from (path for path in given if path is not None and path.exists())


def _needs(spec: ModelSpec, folder: Path) -> bool:
    return any(_lies_in(place, folder) for place in _places_of(spec))


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether it, or what it is a link to, lies in a folder; names may differ where upper and lower case do not."""
    parents = {place.parent.resolve(), place.resolve()}
    return any(one.samefile(folder) for path in parents for one in (path, *path.parents))


def _leads_back(path: Path, root: Path) -> bool:
    """Whether it is a link to where it lies: every model would have a second name."""
    try:
        return path.is_symlink() and root.resolve().is_relative_to(path.resolve())
    # How Python 3.11 and 3.12 say that a link leads to itself.
    except (OSError, RuntimeError):
        return True


def _is_model(path: Path) -> bool:
    """Whether it looks like one, whole or not: there are no others in it then."""
    try:
        return (path.suffix.lower() == ".gguf" and path.is_file()) or any((path / sign).exists() for sign in _SIGNS)
    except OSError:
        return False
