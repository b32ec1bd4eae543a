"""KV caches of prompts and answers, kept for the next request that begins the same way.

A radix tree over tokens, one root per namespace. A node holds the keys and values of just its own tokens, so a prefix
that many conversations share is kept once. Layers whose state cannot be cut by position (state-space layers, rotating
windows) are kept whole, as checkpoints at the end of a node; a model with such layers is resumed at a checkpoint only.
"""

import time
from dataclasses import dataclass
from itertools import chain

from loguru import logger
from mlx_lm.models.cache import KVCache

from app.handler.lm.kv.caches import Cache, RowCache, flat_layers, is_span, restored
from app.handler.lm.prefixes.disk_tier import DiskTier
from app.handler.lm.prefixes.kept import Kept
from app.handler.lm.prefixes.prefix_files import PrefixFiles
from app.handler.lm.prefixes.prefix_tree import (
    Entry,
    EntryNode,
    PrefixTree,
    entry_of,
    has_checkpoint_in_file,
    has_checkpoint_in_memory,
)
from app.handler.lm.prefixes.radix import match

# Prompts shorter than this are cheaper to compute than to keep.
_FEWEST_TOKENS = 16
# A cache is restored with room for at least so many tokens after the prompt, and grows by so many like any other.
_LEAST_ROOM = 64
_GROWTH = KVCache.step
# A node is evicted, written and read as a whole: none takes longer than a step or two of the rows that wait for it.
_MOST_NODE_TOKENS = 256
# What was never hit may keep this part of the budget however much of the rest is in use.
_COLD_SHARE = 0.1
_NEARLY_FULL_SHARE = 0.8
# Of the budget, for what nobody has asked for yet.
_AHEAD_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Hit:
    """A cache that holds the first `num_tokens` tokens of what was looked up; the caller owns it."""

    num_tokens: int
    cache: Cache


@dataclass(frozen=True, slots=True)
class PrefixCacheLimits:
    """None is no limit. `max_sequences` counts the ends of the tree; a budget of 0 keeps nothing."""

    max_bytes: int
    max_sequences: int | None = None
    ttl_s: float | None = None

    @property
    def allow_nothing(self) -> bool:
        """Whether the cache is off."""
        return self.max_bytes <= 0 or self.max_sequences == 0


@dataclass(slots=True)
class PrefixCacheCounts:
    """Since the start."""

    lookups: int = 0
    hits: int = 0
    hit_tokens: int = 0
    looked_up_tokens: int = 0
    evictions: int = 0
    expired: int = 0


class PrefixCache:
    """Owned by the worker's main thread. `template` is an empty cache of the model, for its layers' classes."""

    def __init__(self, template: Cache, limits: PrefixCacheLimits, files: PrefixFiles | None = None) -> None:
        self.limits = limits
        self.counts = PrefixCacheCounts()
        self._template = template
        self._uncut_layers = [type(layer) for layer in flat_layers(template) if not is_span(layer)]
        self._tree = PrefixTree()
        self._disk = DiskTier(self._tree, files, self._uncut_layers) if files is not None else None

    @property
    def needs_checkpoints(self) -> bool:
        """Whether the model can be resumed only where a checkpoint was stored."""
        return bool(self._uncut_layers)

    @property
    def num_bytes(self) -> int:
        """Memory in use."""
        return self._tree.recency.num_cold_bytes + self._tree.recency.num_warm_bytes

    @property
    def num_sequences(self) -> int:
        """Ends of all trees, as far as they are in memory."""
        recency = self._tree.recency
        return sum(map(_ends_in_memory, chain(recency.cold(), recency.warm())))

    @property
    def files(self) -> PrefixFiles | None:
        """The files behind it, if there are any."""
        return self._disk.files if self._disk is not None else None

    def fetch(self, namespace: str, tokens: list[int]) -> Hit | None:
        """The longest kept beginning of `tokens`, short of the last one: something must be left to feed."""
        self.counts.lookups += 1
        self.counts.looked_up_tokens += len(tokens)
        try:
            hit = self._resume(namespace, tokens[:-1])
        except Exception:
            # Of no use to anybody any more; the request runs as if it had never been there.
            logger.exception("a broken entry of the prefix cache is dropped")
            self._drop(namespace, tokens)
            hit = None
        if hit is not None:
            self.counts.hits += 1
            self.counts.hit_tokens += hit.num_tokens
        return hit

    def load_some(self, namespace: str, tokens: list[int]) -> bool:
        """Read the next file of what `fetch` would give, one node's worth; whether there was one."""
        if self._disk is None:
            return False
        try:
            return self._load_next(self._path(namespace, tokens[:-1])[0], self._disk)
        except Exception:
            logger.exception("a broken entry of the prefix cache is dropped")
            self._drop(namespace, tokens)
            return False

    def store(self, namespace: str, tokens: list[int], row: RowCache) -> None:
        """Keep what `row`'s cache holds for `tokens`; what is kept already is only marked as used."""
        if len(tokens) < _FEWEST_TOKENS or self.limits.allow_nothing:
            return
        try:
            node = self._insert(namespace, tokens, row)
        except Exception:
            # What a row leaves behind must not harm it, nor its neighbours.
            logger.exception("a cache could not be kept")
            self._drop(namespace, tokens)
            return
        self._tree.touch(node, is_hit=False)
        self._shrink(spare=set(node.path()))

    def spill_ahead(self) -> None:
        """Write one node of what will be evicted next, so that evicting it costs nothing then."""
        is_nearly_full = self.num_bytes > _NEARLY_FULL_SHARE * self.limits.max_bytes
        if self._disk is None or not is_nearly_full or self._disk.files.is_behind:
            return
        if (node := self._victim(set(), self.limits.max_bytes * _COLD_SHARE)) is not None:
            self._disk.spill(node, most_files=1)

    def read_ahead(self) -> bool:
        """Read a file that an earlier run left, before it is asked for; whether there was one, and room for it."""
        node = self._disk.next_ahead() if self._disk is not None else None
        if self._disk is None or node is None or not self._has_room_ahead(node):
            return False
        try:
            self._disk.load(node, is_ahead=True)
        except Exception:
            logger.exception("a broken entry of the prefix cache is dropped")
            self._tree.forget(node)
        return True

    def clear(self) -> None:
        """Drop everything, on disk too."""
        self._tree.clear()

    def expire(self) -> None:
        """Drop what was of no use for the time to live."""
        if self.limits.ttl_s is None:
            return
        oldest = time.monotonic() - self.limits.ttl_s
        for node in self._tree.nodes():
            # Those after it are older still, and go with it.
            if node.used_at < oldest and entry_of(node).is_kept:
                self.counts.expired += self._tree.forget(node)

    def collect(self) -> bool:
        """Let go of memory that was written to disk; whether some is still being written."""
        return self._disk is not None and self._disk.collect()

    def close(self, timeout_s: float = 60.0) -> None:
        """Write what is only in memory to disk; the cache must not be used any more."""
        if self._disk is not None:
            self._disk.close(timeout_s)

    def _path(self, namespace: str, tokens: list[int]) -> tuple[list[EntryNode], int]:
        """The nodes of the longest kept beginning of `tokens`, and its length, which may end inside the last one."""
        root = self._tree.find(namespace)
        if root is None:
            return [], 0
        found = match(root, tokens)
        path = found.node.path()
        num_tokens = found.num_tokens
        if self.needs_checkpoints:
            while path and not (has_checkpoint_in_memory(path[-1]) or has_checkpoint_in_file(path[-1])):
                num_tokens -= len(path.pop().tokens)
        elif found.partial is not None and found.num_partial:
            path.append(found.partial)
            num_tokens += found.num_partial
        return (path, num_tokens) if num_tokens >= _FEWEST_TOKENS else ([], 0)

    def _load_next(self, path: list[EntryNode], disk: DiskTier) -> bool:
        """Read the first node of a path that is not in memory as it is needed; whether there was one."""
        missing = next((node for node in path if not entry_of(node).is_in_memory), None)
        if missing is None and path and self.needs_checkpoints and not has_checkpoint_in_memory(path[-1]):
            missing = path[-1]
        if missing is None:
            return False
        # First, so that none of the path is evicted for another part of it.
        self._tree.touch(path[-1], is_hit=False)
        disk.load(missing)
        self._shrink(spare=set(path))
        return True

    def _resume(self, namespace: str, tokens: list[int]) -> Hit | None:
        path, num_tokens = self._path(namespace, tokens)
        while self._disk is not None and self._load_next(path, self._disk):
            path, num_tokens = self._path(namespace, tokens)
        if not path:
            return None
        kept = [one for node in path if (one := entry_of(node).kept) is not None]
        last_tokens = num_tokens - sum(len(node.tokens) for node in path[:-1])
        checkpoint = kept[-1].checkpoint
        kept[-1] = kept[-1].start_of(last_tokens) if last_tokens < len(path[-1].tokens) else kept[-1]
        # A cache that has to grow is copied once more; one of a size that others had takes memory that was theirs.
        room = -(-(len(tokens) + _LEAST_ROOM) // _GROWTH) * _GROWTH - num_tokens
        cache = restored(self._template, [one.spans for one in kept], checkpoint, num_tokens, room)
        self._tree.touch(path[-1], is_hit=True)
        return Hit(num_tokens, cache)

    def _insert(self, namespace: str, tokens: list[int], row: RowCache) -> EntryNode:
        """Put what `row` holds in the tree; gives the node at its end."""
        found = match(self._tree.root(namespace), tokens)
        node = found.node
        if found.partial is not None and found.num_partial:
            node = self._tree.split(found.partial, found.num_partial)
        self._bring_back(node, row)
        checkpoint = row.checkpoint() if self.needs_checkpoints else None
        start = found.num_tokens + found.num_partial
        if start == len(tokens) and checkpoint is not None and not has_checkpoint_in_memory(node):
            entry = entry_of(node)
            self._tree.recency.discard(node)
            entry.kept = Kept.of(entry.kept.spans if entry.kept is not None else [], checkpoint)
        while start < len(tokens):
            stop = min(start + _MOST_NODE_TOKENS, len(tokens))
            kept = Kept.of(row.spans(start, stop), checkpoint if stop == len(tokens) else None)
            node = self._tree.add(node, tokens[start:stop], Entry(namespace, kept))
            start = stop
        return node

    def _bring_back(self, node: EntryNode, row: RowCache) -> None:
        """Have a path in memory again, where only its files were left."""
        start = 0
        for one in node.path():
            stop = start + len(one.tokens)
            if not entry_of(one).is_in_memory:
                entry_of(one).kept = Kept.of(row.spans(start, stop), None)
            start = stop

    def _shrink(self, spare: set[EntryNode]) -> None:
        """Evict down to the limits: first what was never hit, so that one-off prompts push out no shared prefix."""
        self.collect()
        cold_floor = self.limits.max_bytes * _COLD_SHARE
        while self._is_over() and (node := self._victim(spare, cold_floor)):
            self._evict(node)
            self.counts.evictions += 1

    def _is_over(self) -> bool:
        most = self.limits.max_sequences
        return self.num_bytes > self.limits.max_bytes or (most is not None and self.num_sequences > most)

    def _has_room_ahead(self, node: EntryNode) -> bool:
        file, most, before = entry_of(node).file, self.limits.max_sequences, node.parent
        size = file.num_bytes if file is not None else 0
        if self.num_bytes + size > _AHEAD_SHARE * self.limits.max_bytes:
            return False
        is_longer = before is not None and before.parent is not None and _ends_in_memory(before)
        return most is None or is_longer or self.num_sequences < most

    def _victim(self, spare: set[EntryNode], cold_floor: float) -> EntryNode | None:
        recency = self._tree.recency
        # With the number of sequences at its limit, bytes say nothing.
        prefers_cold = recency.num_cold_bytes > cold_floor or self.num_bytes <= self.limits.max_bytes
        cold = [recency.cold()] if prefers_cold else []
        for node in chain(*cold, recency.warm(), recency.cold()):
            if node not in spare and _ends_in_memory(node):
                return node
        return None

    def _evict(self, node: EntryNode) -> None:
        """Take a node out of memory; what has no file then is gone."""
        if self._disk is not None:
            self._disk.spill(node)
        entry = entry_of(node)
        if entry.file is None:
            self._tree.forget(node)
            return
        self._tree.recency.discard(node)
        entry.kept = None

    def _drop(self, namespace: str, tokens: list[int]) -> None:
        """Forget everything that begins as `tokens` do."""
        root = self._tree.find(namespace)
        if root is not None and tokens and (node := root.children.get(tokens[0])):
            self._tree.forget(node)


def _ends_in_memory(node: EntryNode) -> bool:
    """Whether nothing in memory comes after a node."""
    return not any(entry_of(child).is_in_memory for child in node.children.values())
