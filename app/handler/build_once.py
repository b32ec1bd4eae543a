"""Makes a folder at most once, however many processes want it and wherever one of them dies."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.errors import ModelLoadError

# To be raised when a converter writes something else than before: folders of the old kind are then no longer found.
CONVERTER_VERSION: Final = 1


def convert_once(
    source: Path, name: str, cache_dir: Path, convert: Callable[[Path, Path], None], say: Callable[[str], None]
) -> Path:
    """The folder under `cache_dir` that `convert(source, folder)` has filled, now or earlier for the same file.

    Raises `ModelLoadError` when the file cannot be converted or the cache cannot be written.
    """

    def build(folder: Path) -> None:
        say(f"converting {source.name} (once; the result is kept in {target})")
        convert(source, folder)

    target = cache_dir / "models" / f"{name}-{_fingerprint(source)}"
    try:
        return build_once(target, build)
    except (OSError, RuntimeError) as error:  # MLX reports a full disk as RuntimeError.
        raise ModelLoadError(f"{source} could not be converted into {target}: {error}.") from error


def _fingerprint(source: Path) -> str:
    """Changes with the file's place, size and time and with the converter; the contents are not read for it."""
    state = source.stat()
    parts = (str(source.resolve()), state.st_size, state.st_mtime_ns, CONVERTER_VERSION)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns `target`, which `build` has filled: now, earlier, or in another process that is waited for.

    `build` gets an empty folder beside the target, which becomes the target only when it is complete and on disk. What
    a process that died left behind is removed by the next one that builds the same target. Any exception of `build`
    passes through and leaves nothing behind.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    with _locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            build(unfinished)
            _sync_tree(unfinished)
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _sync(target.parent)
    return target


@contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    """Holds the lock file's lock, waiting for it; the file is gone afterwards. The kernel frees a dead owner's lock."""
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # Removed while still held: whoever waits for this very file finds out below that it lost its name.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`, and not one that its last owner has removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync_tree(folder: Path) -> None:
    """Puts every file and the folders' entries on disk, so that the rename cannot survive a power cut without them."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
