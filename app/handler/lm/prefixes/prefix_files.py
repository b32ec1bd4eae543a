"""The folder in which nodes of the prefix cache outlive memory and restarts: one file each, written by a thread.

Only the thread touches the disk while requests run, but for reading a file at a hit; only the main thread touches MLX.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from app.handler.lm.prefixes.kept import Kept
from app.handler.lm.prefixes.prefix_file import BrokenFileError, Draft, FileHead, draft, read, read_head
from app.handler.lm.prefixes.prefix_folder import lock_folder
from app.handler.lm.prefixes.radix import Node

_SUFFIX = ".safetensors"
# What waits to be written is held in memory beyond the cache's budget: when the disk falls this far behind, evicted
# entries are lost instead.
_MOST_PENDING_BYTES = 1 << 30
_FULL_SHARE = 0.95


@dataclass(slots=True, eq=False)
class NodeFile:
    """A file in the folder. When its node is split, the parts share it: `holders` are the nodes that refer to it."""

    folder: "PrefixFiles"
    path: Path
    num_bytes: int
    start: int
    num_tokens: int
    has_checkpoint: bool
    # While it is being written.
    pending: Kept | None = None
    holders: set[Node[Any]] = field(default_factory=set)

    @property
    def used_at(self) -> float:
        """The last use of any part of it."""
        return max(node.used_at for node in self.holders)

    def release(self, node: Node[Any]) -> None:
        """A node does not refer to it any more; the last one takes the file along."""
        self.holders.discard(node)
        if not self.holders:
            self.folder.remove(self)


@dataclass(frozen=True, slots=True)
class Found:
    """A file of an earlier run; `used_at` as `time.monotonic()` would have it."""

    head: FileHead
    file: NodeFile
    used_at: float


class PrefixFiles:
    """The files of one model. Owned by the worker's main thread."""

    def __init__(self, folder: Path, fingerprint: str, max_bytes: int, lock: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_spills = 0
        self.num_loads = 0
        self._folder = folder
        self._fingerprint = fingerprint
        self._lock = lock
        self._files: set[NodeFile] = set()
        self._num_named = 0
        self._is_writable = True
        self._num_pending_bytes = 0
        # As long as the longest file that was read.
        self._buffer = bytearray()
        self._writer = _Writer()

    @classmethod
    def open(cls, folder: Path, fingerprint: str, max_bytes: int) -> "PrefixFiles | None":
        """The files in `folder`, made if need be; None, with a line in the log, when it cannot be used."""
        try:
            lock = lock_folder(folder)
        except OSError as error:
            logger.warning("prompt caches are not kept on disk: {}", error)
            return None
        if lock is None:
            logger.warning("prompt caches are not kept on disk: another process uses {}", folder)
            return None
        return cls(folder, fingerprint, max_bytes, lock)

    @property
    def num_files(self) -> int:
        """Files, those that are being written included."""
        return len(self._files)

    def find(self) -> list[Found]:
        """What earlier runs left, those nearest to a root first; broken files and foreign ones are removed."""
        found: list[Found] = []
        for path in self._folder.glob("*.tmp"):
            self._unlink(path, "it was never finished")
        for path in self._folder.glob(f"*{_SUFFIX}"):
            try:
                head = read_head(path, self._fingerprint)
                status = path.stat()
            except (OSError, BrokenFileError) as error:
                self._unlink(path, str(error))
                continue
            own = len(head.tokens) - head.start
            file = NodeFile(self, path, status.st_size, head.start, own, head.has_checkpoint)
            self._files.add(file)
            self.num_bytes += file.num_bytes
            used_at = time.monotonic() - max(0.0, time.time() - status.st_mtime)
            found.append(Found(head, file, used_at))
        return sorted(found, key=lambda one: one.head.start)

    def add(self, head: FileHead, kept: Kept, used_at: float, lose: Callable[[NodeFile], None]) -> NodeFile | None:
        """Write a node that was of use at `used_at`; files that have to go for it are given to `lose`.

        None when there is no room, when the disk is behind, or when it cannot be written to.
        """
        if not self._is_writable or self.is_behind:
            return None
        try:
            content = draft(self._fingerprint, head, kept)
        except TypeError as error:
            logger.debug("an entry of the prefix cache cannot be written: {}", error)
            return None
        if not self.make_room(content.num_bytes, used_at, lose):
            return None
        path = self._new_path()
        own = len(head.tokens) - head.start
        file = NodeFile(self, path, content.num_bytes, head.start, own, kept.checkpoint is not None, kept)
        self._files.add(file)
        self.num_bytes += file.num_bytes
        self._num_pending_bytes += kept.num_bytes
        self.num_spills += 1
        self._writer.write(file, content)
        return file

    def read(self, file: NodeFile, template: list[type[Any]]) -> Kept | None:
        """What a file holds; None, with a line in the log, when it cannot be read any more."""
        self.num_loads += 1
        if file.pending is not None:
            return file.pending
        try:
            return read(file.path, template, self._buffer)
        except (OSError, BrokenFileError) as error:
            logger.warning("an entry of the prefix cache is dropped: {} cannot be used: {}", file.path, error)
            return None

    def remove(self, file: NodeFile) -> None:
        """Delete a file that no node refers to."""
        if file in self._files:
            self._files.remove(file)
            self.num_bytes -= file.num_bytes
            self._writer.delete(file.path)

    def collect(self) -> list[NodeFile]:
        """Let go of what is written; gives the files that could not be: their nodes' content is lost."""
        lost: list[NodeFile] = []
        for file, error in self._writer.results():
            self._num_pending_bytes -= file.pending.num_bytes if file.pending is not None else 0
            file.pending = None
            if error is None:
                continue
            if self._is_writable:
                logger.warning("prompt caches are not written to disk any more: {}", error)
                self._is_writable = False
            if file in self._files:
                lost.append(file)
        return lost

    @property
    def is_writing(self) -> bool:
        """Whether memory waits for the disk."""
        return self._num_pending_bytes > 0

    @property
    def is_behind(self) -> bool:
        """Whether the disk is too slow for what it is given."""
        return self._num_pending_bytes > _MOST_PENDING_BYTES

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is on disk; whether it is."""
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Finish writing, note when each file was last of use, let others have the folder."""
        self.flush(timeout_s)
        for file in self._files:
            used_at = time.time() - (time.monotonic() - file.used_at)
            try:
                os.utime(file.path, (used_at, used_at))
            except OSError:  # Not written in time.
                continue
        self._writer.stop()
        os.close(self._lock)

    def make_room(self, num_bytes: int, used_at: float, lose: Callable[[NodeFile], None]) -> bool:
        """Give `lose` the least recently used files until there is room; False if that takes more than what is older
        than `used_at`.
        """
        excess = self.num_bytes + num_bytes - self.max_bytes
        if excess <= 0:
            return True
        # A node is never used later than those before it: by this order, no file goes before those that build on it.
        aged = [(file.used_at, -file.start, file) for file in self._files]
        older = sorted((one for one in aged if one[0] < used_at), key=lambda one: one[:2])
        if sum(file.num_bytes for _, _, file in older) < excess:
            return False
        # A little more than needed, so that not every file has to look for room.
        for _, _, file in older:
            if self.num_bytes + num_bytes <= _FULL_SHARE * self.max_bytes:
                break
            lose(file)
        return True

    def _new_path(self) -> Path:
        self._num_named += 1
        return self._folder / f"{time.time_ns():x}-{self._num_named}{_SUFFIX}"

    @staticmethod
    def _unlink(path: Path, reason: str) -> None:
        logger.info("{} is removed: {}", path, reason)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("{} cannot be removed: {}", path, error)


class _Writer:
    """A thread that writes and deletes files in the order it is told to. Its methods are for the main thread."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[NodeFile | Path | threading.Event | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[NodeFile, str | None]] = queue.SimpleQueue()
        # The thread only looks up what is in here: the last reference to MLX's memory has to end in the main thread.
        self._drafts: dict[NodeFile, Draft] = {}
        self._is_broken = False
        self._thread = threading.Thread(target=self._run, name="prefix-files", daemon=True)
        self._thread.start()

    def write(self, file: NodeFile, content: Draft) -> None:
        self._drafts[file] = content
        self._tasks.put(file)

    def delete(self, path: Path) -> None:
        self._tasks.put(path)

    def results(self) -> list[tuple[NodeFile, str | None]]:
        """What was written since the last call, with the error where it failed."""
        done: list[tuple[NodeFile, str | None]] = []
        while not self._results.empty():
            file, error = self._results.get()
            self._drafts.pop(file).buffers.clear()
            done.append((file, error))
        return done

    def flush(self, timeout_s: float | None) -> bool:
        reached = threading.Event()
        self._tasks.put(reached)
        return reached.wait(timeout_s)

    def stop(self) -> None:
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            match task:
                case NodeFile():
                    self._results.put((task, self._write(task)))
                case Path():
                    try:
                        task.unlink(missing_ok=True)
                    except OSError as error:
                        logger.warning("{} cannot be removed: {}", task, error)
                case _:
                    task.set()

    def _write(self, file: NodeFile) -> str | None:
        """Write a file; gives the error if it fails, and does not try again after that."""
        if self._is_broken:
            return "an earlier one failed"
        try:
            self._drafts[file].write(file.path)
        except OSError as error:
            self._is_broken = True
            file.path.with_suffix(".tmp").unlink(missing_ok=True)
            return str(error)
        return None
