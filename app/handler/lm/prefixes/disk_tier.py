"""What moves between memory and disk: nodes of the prefix cache that are evicted, and those that are asked for."""

import math
import time
from array import array
from collections import deque
from typing import Any

from app.handler.lm.prefixes.prefix_file import FileHead
from app.handler.lm.prefixes.prefix_files import NodeFile, PrefixFiles
from app.handler.lm.prefixes.prefix_tree import (
    EntryNode,
    PrefixTree,
    entry_of,
    has_checkpoint_in_file,
    has_checkpoint_in_memory,
)

# Who was in the middle of a conversation when the process ended comes back soon, or not at all.
_LATELY_S = 1800.0


class DiskTier:
    """The files behind a tree; `template` are the classes of the model's layers that checkpoints are of.

    Owned by the worker's main thread.
    """

    def __init__(self, tree: PrefixTree, files: PrefixFiles, template: list[type[Any]]) -> None:
        self.files = files
        self._tree = tree
        self._template = template
        for found in files.find():
            tree.restore(found)
        files.make_room(0, math.inf, self._lose)
        self._lately = _used_since(time.monotonic() - _LATELY_S, tree)

    def spill(self, node: EntryNode, most_files: int | None = None) -> None:
        """Have a node in a file, and first those before it, without which it would be of no use."""
        if _is_in_file(node):
            return
        tokens = array("i")
        num_files = 0
        for one in node.path():
            entry = entry_of(one)
            tokens.extend(one.tokens)
            if entry.kept is None or _is_in_file(one):
                continue
            head = FileHead(entry.namespace, tokens[:], len(tokens) - len(one.tokens))
            file = self.files.add(head, entry.kept, one.used_at, self._lose)
            if file is None:
                return
            self._tree.put_in_file(one, file)
            num_files += 1
            if num_files == most_files:
                return

    def next_ahead(self) -> EntryNode | None:
        """What was of use shortly before the start and nobody has asked for yet, the most recent first."""
        while self._lately:
            node = self._lately[0]
            before = node.parent
            is_reachable = before is not None and (before.parent is None or entry_of(before).is_in_memory)
            if is_reachable and entry_of(node).file is not None and not entry_of(node).is_in_memory:
                return node
            self._lately.popleft()
        return None

    def load(self, node: EntryNode, *, is_ahead: bool = False) -> None:
        """Have a node in memory; one whose file cannot be read is dropped.

        What is read ahead of a request is of less use than all that was asked for.
        """
        entry = entry_of(node)
        file, start, stop = entry.file, entry.file_start, entry.file_start + len(node.tokens)
        if file is None:
            raise ValueError("the node is in no file")
        kept = self.files.read(file, self._template)
        if kept is None:
            self._lose(file)
            return
        if len(node.tokens) < file.num_tokens:
            kept = kept.cut(start, stop, keeps_checkpoint=stop == file.num_tokens)
        self._tree.recency.discard(node)
        entry.kept = kept
        self._tree.recency.add(node, is_oldest=is_ahead)

    def collect(self) -> bool:
        """Let go of memory that was written; whether some is still being written."""
        for file in self.files.collect():
            self._lose(file)
        return self.files.is_writing

    def close(self, timeout_s: float) -> None:
        """Write what is only in memory, the most recent first, as far as the time allows; let others have the files."""
        deadline = time.monotonic() + timeout_s
        for node in sorted(self._tree.nodes(), key=lambda node: -node.used_at):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            if entry_of(node).is_in_memory:
                self.spill(node)
            if self.files.is_behind:
                self.files.flush(left_s)
            self.collect()
        self.files.close(max(0.0, deadline - time.monotonic()))

    def _lose(self, file: NodeFile) -> None:
        """A file has to go, or is of no use: what is nowhere else is dropped."""
        for node in list(file.holders):
            # Unless it went with one before it.
            if node in file.holders:
                self._tree.leave_file(node)
                if not entry_of(node).is_in_memory:
                    self._tree.forget(node)


def _used_since(moment: float, tree: PrefixTree) -> deque[EntryNode]:
    """The most recent first. A node is never used later than those before it, and comes after them."""
    recent = [node for node in tree.nodes() if node.used_at >= moment]
    return deque(sorted(recent, key=lambda node: -node.used_at))


def _is_in_file(node: EntryNode) -> bool:
    """Whether a node can be taken out of memory without losing anything."""
    is_complete = has_checkpoint_in_file(node) or not has_checkpoint_in_memory(node)
    return entry_of(node).file is not None and is_complete
