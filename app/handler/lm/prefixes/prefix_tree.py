"""The tree of the prefix cache: which tokens are kept, in memory or in a file, and in what order they were of use.

What is in memory makes a tree from the root on, and so does what has a file: nothing is kept that could not be reached.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from app.handler.lm.prefixes.kept import Kept
from app.handler.lm.prefixes.prefix_files import Found, NodeFile
from app.handler.lm.prefixes.radix import Node, Recency, match


@dataclass(slots=True)
class Entry:
    """Where a node's content is: `kept` in memory, or from the `file_start`-th token on in `file`, or in both."""

    namespace: str
    kept: Kept | None = None
    file: NodeFile | None = None
    file_start: int = 0

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self.kept.num_bytes if self.kept is not None else 0

    @property
    def is_in_memory(self) -> bool:
        """Whether it can be used without reading a file."""
        return self.kept is not None

    @property
    def is_kept(self) -> bool:
        """False once it was dropped."""
        return self.kept is not None or self.file is not None


EntryNode = Node[Entry]


def entry_of(node: EntryNode) -> Entry:
    """Where the content of a node is; a root has none."""
    if node.segment is None:
        raise ValueError("a root keeps nothing")
    return node.segment


def has_checkpoint_in_memory(node: EntryNode) -> bool:
    """Whether a model can be resumed at a node's end without reading a file."""
    kept = entry_of(node).kept
    return kept is not None and kept.checkpoint is not None


def has_checkpoint_in_file(node: EntryNode) -> bool:
    """The same, with reading one; the checkpoint of a file is that of its last part."""
    entry = entry_of(node)
    file = entry.file
    return file is not None and file.has_checkpoint and entry.file_start + len(node.tokens) == file.num_tokens


class PrefixTree:
    """One tree per namespace. Owned by the worker's main thread."""

    def __init__(self) -> None:
        self._roots: dict[str, EntryNode] = {}
        self.recency: Recency[Entry] = Recency()

    def find(self, namespace: str) -> EntryNode | None:
        """The root of a namespace in which something was stored."""
        return self._roots.get(namespace)

    def root(self, namespace: str) -> EntryNode:
        """The root of a namespace, made if need be."""
        if namespace not in self._roots:
            # Namespaces are the clients' to invent: those that hold nothing any more are forgotten.
            self._roots = {name: root for name, root in self._roots.items() if root.children}
        return self._roots.setdefault(namespace, Node([], None, None))

    def nodes(self) -> list[EntryNode]:
        """Every node of every tree, those before others first."""
        return [node for root in self._roots.values() for node in _below(root)]

    def touch(self, node: EntryNode, *, is_hit: bool) -> None:
        """A node and those before it were of use."""
        self.recency.touch(node, time.monotonic(), is_hit=is_hit)

    def add(self, parent: EntryNode, tokens: list[int], entry: Entry) -> EntryNode:
        """A new node after `parent`."""
        node = parent.children[tokens[0]] = Node(tokens, parent, entry)
        if entry.file is not None:
            entry.file.holders.add(node)
        return node

    def split(self, node: EntryNode, size: int) -> EntryNode:
        """Cut a node in two after `size` tokens; gives the first part. They share a file."""
        parent, entry = node.parent, entry_of(node)
        if parent is None:
            raise ValueError("the root has no tokens to split")
        kept = entry.kept
        head = kept.cut(0, size, keeps_checkpoint=False) if kept is not None else None
        tail = kept.cut(size, len(node.tokens), keeps_checkpoint=True) if kept is not None else None
        self.recency.discard(node)
        first = self.add(parent, node.tokens[:size], Entry(entry.namespace, head, entry.file, entry.file_start))
        first.was_hit, first.used_at = node.was_hit, node.used_at
        entry.kept = tail
        entry.file_start += size
        node.tokens = node.tokens[size:]
        node.parent = first
        first.children[node.tokens[0]] = node
        self.recency.add(node)
        self.recency.add(first)
        return first

    def forget(self, node: EntryNode) -> int:
        """Drop a node and those after it, which are of no use without it; gives their number."""
        if node.parent is not None:
            del node.parent.children[node.tokens[0]]
        gone = [node, *_below(node)]
        for one in gone:
            self.recency.discard(one)
            self.leave_file(one)
            entry_of(one).kept = None
        return len(gone)

    def clear(self) -> None:
        """Drop everything."""
        for root in self._roots.values():
            for node in list(root.children.values()):
                self.forget(node)
        self._roots.clear()

    def leave_file(self, node: EntryNode) -> None:
        """A node is no more in its file, if it has one."""
        entry = entry_of(node)
        file, entry.file = entry.file, None
        if file is not None:
            file.release(node)

    def restore(self, found: Found) -> None:
        """Put a file of an earlier run in its place; it is removed when what comes before it is gone."""
        head, file, tokens = found.head, found.file, list(found.head.tokens)
        root = self.root(head.namespace)
        if self._ending(root, tokens[: head.start]) is None:
            file.folder.remove(file)
            return
        reached = match(root, tokens)
        node = self.split(reached.partial, reached.num_partial) if reached.partial and reached.num_partial else None
        node = node or reached.node
        covered = reached.num_tokens + reached.num_partial
        if covered < len(tokens):
            node = self.add(node, tokens[covered:], Entry(head.namespace, None, file, covered - head.start))
        elif file.has_checkpoint and not has_checkpoint_in_file(node):
            self.put_in_file(node, file)
        else:
            file.folder.remove(file)
        for one in node.path():
            one.used_at = max(one.used_at, found.used_at)

    def put_in_file(self, node: EntryNode, file: NodeFile) -> None:
        """A node is in another file now, at its end."""
        self.leave_file(node)
        entry = entry_of(node)
        entry.file, entry.file_start = file, file.num_tokens - len(node.tokens)
        file.holders.add(node)

    def _ending(self, root: EntryNode, tokens: list[int]) -> EntryNode | None:
        """The node at whose end `tokens` end, split off if need be; None when they are not all in the tree."""
        found = match(root, tokens)
        if found.num_tokens + found.num_partial < len(tokens):
            return None
        if found.partial is not None and found.num_partial:
            return self.split(found.partial, found.num_partial)
        return found.node


def _below(node: EntryNode) -> Iterator[EntryNode]:
    """The nodes after one, those before others first."""
    left = list(node.children.values())
    while left:
        one = left.pop()
        yield one
        left += one.children.values()
