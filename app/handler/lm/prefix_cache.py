"""KV caches of prompts and answers, kept for the next request that begins the same way.

A radix tree over tokens, one root per namespace. A node holds the keys and values of just its own tokens, so a prefix
that many conversations share is kept once. Layers whose state cannot be cut by position (state-space layers, rotating
windows) are kept whole, as checkpoints at the end of a node; a model with such layers is resumed at a checkpoint only.
"""

import time
from dataclasses import dataclass

import mlx.core as mx

from app.handler.lm.caches import Cache, RowCache, Span, flat_layers, is_span, restored, spans_joined
from app.handler.lm.radix import Node, Recency, match

# Prompts shorter than this are cheaper to compute than to keep.
_FEWEST_TOKENS = 16
# What was never hit may keep this part of the budget however much of the rest is in use.
_COLD_SHARE = 0.1


@dataclass(slots=True)
class Kept:
    """A node's part of the KV cache: `spans[n]` of the n-th layer that can be cut, a checkpoint of the others."""

    spans: list[Span]
    checkpoint: Cache | None
    num_bytes: int

    @classmethod
    def of(cls, spans: list[Span], checkpoint: Cache | None) -> "Kept":
        """Computes the arrays, so that they are held and not the graph that makes them."""
        mx.eval(spans, [layer.state for layer in checkpoint or []])
        size = sum(keys.nbytes + values.nbytes for keys, values in spans)
        return cls(spans, checkpoint, size + sum(layer.nbytes for layer in checkpoint or []))

    def cut(self, start: int, stop: int, *, keeps_checkpoint: bool) -> "Kept":
        """The part for the node's tokens `start` to `stop`, as arrays of its own."""
        spans = [
            (mx.contiguous(keys[:, :, start:stop]), mx.contiguous(values[:, :, start:stop]))
            for keys, values in self.spans
        ]
        return Kept.of(spans, self.checkpoint if keeps_checkpoint else None)


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

    def __init__(self, template: Cache, limits: PrefixCacheLimits) -> None:
        self.limits = limits
        self.counts = PrefixCacheCounts()
        self._template = template
        self._needs_checkpoints = not all(is_span(layer) for layer in flat_layers(template))
        self._roots: dict[str, Node[Kept]] = {}
        self._recency: Recency[Kept] = Recency()

    @property
    def needs_checkpoints(self) -> bool:
        """Whether the model can be resumed only where a checkpoint was stored."""
        return self._needs_checkpoints

    @property
    def num_bytes(self) -> int:
        """Memory in use."""
        return self._recency.num_cold_bytes + self._recency.num_warm_bytes

    @property
    def num_sequences(self) -> int:
        """Ends of all trees."""
        return sum(not node.children for node in [*self._recency.cold(), *self._recency.warm()])

    def fetch(self, namespace: str, tokens: list[int]) -> Hit | None:
        """The longest kept beginning of `tokens`, short of the last one: something must be left to feed."""
        self.counts.lookups += 1
        self.counts.looked_up_tokens += len(tokens)
        root = self._roots.get(namespace)
        hit = self._resume(root, tokens[:-1]) if root is not None else None
        if hit is not None:
            self.counts.hits += 1
            self.counts.hit_tokens += hit.num_tokens
        return hit

    def store(self, namespace: str, tokens: list[int], row: RowCache) -> None:
        """Keep what `row`'s cache holds for `tokens`; what is kept already is only marked as used."""
        if len(tokens) < _FEWEST_TOKENS or self.limits.allow_nothing:
            return
        if namespace not in self._roots:
            # Namespaces are the clients' to invent: those that hold nothing any more are forgotten.
            self._roots = {name: root for name, root in self._roots.items() if root.children}
        root = self._roots.setdefault(namespace, Node([], None, None))
        found = match(root, tokens)
        node = found.node
        if found.partial is not None and found.num_partial:
            node = self._split(found.partial, found.num_partial)
        start = found.num_tokens + found.num_partial
        checkpoint = row.checkpoint() if self._needs_checkpoints else None
        if start < len(tokens):
            kept = Kept.of(row.spans(start, len(tokens)), checkpoint)
            child = Node(tokens[start:], node, kept)
            node.children[child.tokens[0]] = child
            node = child
        elif checkpoint is not None and node.segment is not None and node.segment.checkpoint is None:
            self._recency.discard(node)
            node.segment = Kept.of(node.segment.spans, checkpoint)
        self._recency.touch(node, time.monotonic(), is_hit=False)
        self._shrink(spare=set(node.path()))

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self._recency = Recency()

    def expire(self) -> None:
        """Drop what was of no use for the time to live."""
        if self.limits.ttl_s is None:
            return
        oldest = time.monotonic() - self.limits.ttl_s
        for node in [*self._recency.cold(), *self._recency.warm()]:
            if node.used_at < oldest and not node.children:
                self._remove(node)
                self.counts.expired += 1

    def _resume(self, root: Node[Kept], tokens: list[int]) -> Hit | None:
        found = match(root, tokens)
        path = found.node.path()
        if self._needs_checkpoints:
            while path and (path[-1].segment is None or path[-1].segment.checkpoint is None):
                path.pop()
            partial, num_partial = None, 0
        else:
            partial, num_partial = found.partial, found.num_partial
        num_tokens = sum(len(node.tokens) for node in path) + num_partial
        if num_tokens < _FEWEST_TOKENS:
            return None
        segments = [node.segment for node in path if node.segment is not None]
        if partial is not None and num_partial and partial.segment is not None:
            segments.append(_start_of(partial.segment, num_partial))
        self._recency.touch(partial if num_partial and partial else path[-1], time.monotonic(), is_hit=True)
        joined = spans_joined([segment.spans for segment in segments])
        return Hit(num_tokens, restored(self._template, joined, segments[-1].checkpoint, num_tokens))

    def _split(self, node: Node[Kept], size: int) -> Node[Kept]:
        """Cut a node in two after `size` tokens; gives the first part."""
        parent, kept = node.parent, node.segment
        if parent is None or kept is None:
            raise ValueError("the root has no tokens to split")
        first = Node(node.tokens[:size], parent, kept.cut(0, size, keeps_checkpoint=False))
        first.was_hit, first.used_at = node.was_hit, node.used_at
        self._recency.discard(node)
        node.segment = kept.cut(size, len(node.tokens), keeps_checkpoint=True)
        node.tokens = node.tokens[size:]
        node.parent = first
        first.children[node.tokens[0]] = node
        parent.children[first.tokens[0]] = first
        self._recency.touch(node, node.used_at, is_hit=False)
        return first

    def _shrink(self, spare: set[Node[Kept]]) -> None:
        """Evict down to the limits: first what was never hit, so that one-off prompts push out no shared prefix."""
        cold_floor = self.limits.max_bytes * _COLD_SHARE
        while self._is_over() and (node := self._victim(spare, cold_floor)):
            self._remove(node)
            self.counts.evictions += 1

    def _is_over(self) -> bool:
        most = self.limits.max_sequences
        return self.num_bytes > self.limits.max_bytes or (most is not None and self.num_sequences > most)

    def _victim(self, spare: set[Node[Kept]], cold_floor: float) -> Node[Kept] | None:
        # With the number of sequences at its limit, bytes say nothing.
        prefers_cold = self._recency.num_cold_bytes > cold_floor or self.num_bytes <= self.limits.max_bytes
        cold = [self._recency.cold()] if prefers_cold else []
        for nodes in (*cold, self._recency.warm(), self._recency.cold()):
            for node in nodes:
                if node not in spare and not node.children:
                    return node
        return None

    def _remove(self, node: Node[Kept]) -> None:
        self._recency.discard(node)
        if node.parent is not None:
            del node.parent.children[node.tokens[0]]
        node.segment = None


def _start_of(kept: Kept, size: int) -> Kept:
    """A view of a node's first tokens, for a hit that ends inside it."""
    return Kept([(keys[:, :, :size], values[:, :, :size]) for keys, values in kept.spans], None, 0)
