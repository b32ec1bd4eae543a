"""`models remove`: give the disk back what a model of the hub's cache takes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.samples import find_sample
from app.errors import ModelLoadError
from app.models.inventory import unfinished_bytes

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy


@dataclass(frozen=True, slots=True)
class Removal:
    """What would be removed, and how many bytes that frees."""

    folder: Path
    freed_bytes: int
    strategy: "DeleteCacheStrategy"

    def carry_out(self) -> bool:
        """Remove it; whether nothing of it is left."""
        # Of what cannot be deleted the library logs some as a warning, and breaks off at the rest.
        try:
            self.strategy.execute()
            return not self.folder.exists()
        except OSError:
            return False


def plan_removal(name: str) -> Removal:
    """The removal of all that the cache has of a model. Errors: ModelLoadError where it has nothing."""
    if (sample := find_sample(name)) is not None:
        raise ModelLoadError(f"{name} is a sample model; remove it with `pip uninstall {sample.package}`.")
    if Path(name).expanduser().exists():
        raise ModelLoadError(f"{name} is a file or folder of yours, not in the hub's cache; remove it yourself.")
    return plan_removal_from_cache(name)


def plan_removal_from_cache(name: str) -> Removal:
    """The same for a name that can mean nothing else."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        raise ModelLoadError(f"{name} is not here: there is no cache of the Hugging Face hub.") from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"The cache of the Hugging Face hub cannot be read: {error}.") from error
    repo = next((repo for repo in cache.repos if repo.repo_type == "model" and repo.repo_id == name), None)
    if repo is not None and repo.revisions:
        # Repositories that were copied have the same commits: those of no other one are meant.
        own = replace(cache, repos=frozenset({repo}))
        strategy = own.delete_revisions(*(revision.commit_hash for revision in repo.revisions))
        freed_bytes = strategy.expected_freed_size + unfinished_bytes(cache, repo.repo_path)
        return Removal(repo.repo_path, freed_bytes, strategy)
    folder = cache.cache_dir / f"models--{name.replace('/', '--')}" if cache.cache_dir else None
    if folder is not None and folder.is_dir():
        raise ModelLoadError(f"Of {name}, the cache has only remains of a download; remove the folder '{folder}'.")
    raise ModelLoadError(f"{name} is not in the hub's cache; `mlx-openai-server models list --all` shows what is.")
