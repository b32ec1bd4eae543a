"""Where the files of the prefix cache are: a folder per model and version of it, which one process uses at a time."""

import fcntl
import hashlib
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from loguru import logger
from mlx.utils import tree_flatten

from app.handler.lm.adapters import adapter_fingerprint
from app.handler.lm.kv.cache_form import CacheForm

_WEIGHTS = ("*.safetensors", "*.gguf", "*.npz")
_READ_WHOLE = ("config.json", "tokenizer.json")


def fingerprint(folder: Path, form: CacheForm, adapter: Path | None = None) -> str:
    """What cached keys and values depend on besides their tokens; weight files are told apart by name, size, time."""
    # The library's version, because the state of a checkpoint is the library's own.
    parts = [f"mlx-lm {version('mlx-lm')}", form.name]
    arrays = [array for _, array in tree_flatten(form.model.parameters()) if isinstance(array, mx.array)]
    parts += sorted({str(array.dtype) for array in arrays})
    for name in _READ_WHOLE:
        path = folder / name
        parts.append(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ''}")
    for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        status = path.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    if adapter is not None:
        parts.append(f"adapter {adapter_fingerprint(adapter)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder_of(home: Path, model_path: str, model_fingerprint: str, adapter: Path | None = None) -> Path:
    """A name that shows which model it is for; those of other versions and settings of it differ at the end only.

    A model with an adapter is another model.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model_path).name)[:60]
    identity = model_path if adapter is None else f"{model_path}\n{adapter}"
    place = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return home / f"{readable}-{place}-{model_fingerprint[:16]}"


def remove_outdated(folder: Path) -> None:
    """Remove what other versions of the same model have left, unless they are in use."""
    stem = folder.name.rpartition("-")[0]
    for other in folder.parent.glob(f"{stem}-{'?' * 16}"):
        if other != folder and (lock := lock_folder(other)) is not None:
            logger.info("{} is removed: the model or how it is cached has changed since", other)
            shutil.rmtree(other, ignore_errors=True)
            os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Make a folder this process's own, until the descriptor is closed or the process ends; None if it is another's.

    The folder is made if need be. Errors: OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    return lock
