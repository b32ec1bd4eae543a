"""The models on this machine: the samples, and those in the cache of the Hugging Face hub."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from app.core.model_config import context_length, read_config
from app.core.model_kind import kind_of
from app.core.requests import Kind
from app.core.samples import SAMPLES, Sample, find_sample, place_in_package
from app.errors import ModelLoadError
from app.models.architectures import Architectures
from app.models.servability import fault_of

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

_KIND_OF_FORM: Final[dict[str, Kind]] = {"gguf": "lm", "ctranslate2": "whisper"}


@dataclass(frozen=True, slots=True)
class Found:
    """A model; `fault` says why it cannot be served, `last_used_s` is in seconds since the epoch.

    `place` is its folder or .gguf file, None where there is nothing whole of it. `quantisation` says how its weights
    are stored. What is not known is None.
    """

    name: str
    origin: Literal["sample", "hub", "folder"]
    place: Path | None
    size_bytes: int
    last_used_s: float | None = None
    fault: str | None = None
    kind: Kind | None = None
    architecture: str | None = None
    context_length: int | None = None
    quantisation: str | None = None


class Inventory:
    """Looks at the disk each time it is asked; `cache_dir` is where the server keeps what it has converted."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self._architectures = Architectures()

    def everything(self) -> list[Found]:
        """Samples first, then the cache by name; those that cannot be served, too."""
        return [*map(self._sample, SAMPLES), *self._cached()]

    def find(self, name: str) -> Found | None:
        """A sample, a folder or .gguf file, or what the cache has of that name."""
        if (sample := find_sample(name)) is not None:
            return self._sample(sample)
        path = Path(name).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
            return self.look_at(name, path)
        return next((found for found in self._cached() if found.name == name), None)

    def look_at(self, name: str, place: Path) -> Found:
        """A folder or .gguf file, called so."""
        if place.is_dir():
            size_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            return self._described(Found(name, "folder", place, size_bytes))
        converted = self._converted(place.stem)
        found = Found(name, "folder", converted or place, place.stat().st_size, kind="lm", quantisation="GGUF")
        return self._described(found) if converted else found

    def _sample(self, sample: Sample) -> Found:
        try:
            place = place_in_package(sample)
        except ModelLoadError as error:
            return Found(sample.name, "sample", None, 0, fault=error.message.removesuffix("."))
        files = place.rglob("*") if place.is_dir() else [place]
        size_bytes = sum(path.stat().st_size for path in files if path.is_file())
        folder = place if sample.form == "folder" else self._converted(sample.name)
        found = Found(sample.name, "sample", folder or place, size_bytes)
        if folder is not None:
            return self._described(found)
        kind = _KIND_OF_FORM[sample.form]
        return replace(found, kind=kind, fault=self._architectures.missing_library(kind))

    def _converted(self, stem: str) -> Path | None:
        """What was made of a file when it was first loaded."""
        folders = (self.cache_dir / "models").glob(f"{stem}-{'[0-9a-f]' * 16}")
        return max(folders, key=lambda path: path.stat().st_mtime, default=None)

    def _cached(self) -> Iterator[Found]:
        from huggingface_hub import CacheNotFound, scan_cache_dir

        try:
            cache = scan_cache_dir()
        except CacheNotFound:
            return
        # The scan leaves out those of which nothing is whole.
        by_path = {repo.repo_path: repo for repo in cache.repos}
        for path in sorted(cache.cache_dir.glob("models--*") if cache.cache_dir else ()):
            if (repo := by_path.get(path)) is not None:
                yield self._repository(repo, unfinished_bytes(cache, path))
            elif path.is_dir():
                name = path.name.removeprefix("models--").replace("--", "/")
                yield Found(name, "hub", None, unfinished_bytes(cache, path), fault=_interrupted(name))

    def _repository(self, repo: "CachedRepoInfo", unfinished: int) -> Found:
        size_bytes = repo.size_on_disk + unfinished
        main = next((revision for revision in repo.revisions if "main" in revision.refs), None)
        if main is None:
            other = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
            fault = (
                "nothing of it is here" if other is None else f"only another revision is here: {other.snapshot_path}"
            )
            return Found(repo.repo_id, "hub", None, size_bytes, repo.last_accessed, fault)
        found = self._described(Found(repo.repo_id, "hub", main.snapshot_path, size_bytes, repo.last_accessed))
        if unfinished and found.fault:
            return replace(found, fault=_interrupted(repo.repo_id))
        return found

    def _described(self, found: Found) -> Found:
        """With what the files of its folder say."""
        folder = found.place
        if folder is None:
            return found
        fault = fault_of(folder, self._architectures)
        try:
            kind = kind_of(folder, None)
            config = {} if kind == "images" else read_config(folder)
        except ModelLoadError:
            return replace(found, fault=fault)
        return replace(
            found,
            fault=fault,
            kind=kind,
            architecture=self._architecture(kind, config),
            context_length=context_length(config, None) if kind in ("lm", "vlm", "embeddings") else None,
            quantisation=_quantisation(config),
        )

    def _architecture(self, kind: Kind, config: dict[str, object]) -> str | None:
        """Its model_type, and the one it is loaded as."""
        own = config.get("model_type")
        if not isinstance(own, str):
            return None
        loaded_as = self._architectures.implementation(kind, own)
        return own if loaded_as in (own, None) else f"{own} (loaded as {loaded_as})"


def unfinished_bytes(cache: "HFCacheInfo", repository: Path) -> int:
    """What an interrupted download has left in a repository's folder."""
    return sum(file.size_on_disk for file in cache.incomplete_files if repository in file.file_path.parents)


def _interrupted(name: str) -> str:
    return f"its download was interrupted: `mlx-openai-server models pull {name}` goes on with it"


def _quantisation(config: dict[str, object]) -> str | None:
    """Bits and group of packed weights, else the type of the numbers."""
    match config.get("quantization") or config.get("quantization_config"):
        case {"bits": int(bits), "group_size": int(group_size)}:
            return f"{bits}-bit, groups of {group_size}"
        case {"bits": int(bits)}:
            return f"{bits}-bit"
        case {"quant_method": str(method)}:
            return method
        case _:
            own = config.get("dtype") or config.get("torch_dtype")
            return own if isinstance(own, str) else None
