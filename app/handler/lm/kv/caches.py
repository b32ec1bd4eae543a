"""A model's KV caches, of one row and of a batch: one object per layer, mlx_lm's or in its form."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.generate import _extend_cache, _merge_caches  # pyright: ignore[reportPrivateUsage]
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from app.handler.cpu_attention import fast_attention
from app.handler.lm.kv.parts_cache import PartsCache, with_room
from app.handler.lm.kv.quantized_cache import QuantizedCache
from app.handler.lm.kv.window_cache import WindowCache

Cache = list[Any]
# What one layer holds of some tokens, each of shape (1, heads, tokens, any): keys and values, or what they were
# quantised to.
Span = tuple[mx.array, ...]


class BatchCache:
    """The cache of the rows that run together. A lone row keeps its own form, which is faster; the second brings the
    batched form. Owned by the worker's main thread.
    """

    __slots__ = ("_is_merged", "layers")

    def __init__(self, layers: Cache | None = None, *, is_merged: bool = False) -> None:
        self.layers: Cache = layers or []
        self._is_merged = is_merged

    @classmethod
    def of(cls, rows: list[Cache]) -> "BatchCache":
        """The caches of several rows, at least one, as one; they must not be used by themselves any more."""
        return cls(rows[0]) if len(rows) == 1 else cls(_merge_caches(rows), is_merged=True)

    @property
    def num_tokens(self) -> int:
        """The length of the layers that grow with every token, padding included; 0 where none does."""
        layers = flat_layers(self.layers)
        return next((layer.size() for layer in layers if is_span(layer) or isinstance(layer, WindowCache)), 0)

    def row(self, index: int) -> "RowCache":
        """One row, to read from."""
        return RowCache(self.layers, index if self._is_merged else None)

    def extend(self, other: "BatchCache") -> None:
        """Append the rows of `other`, which must not be used any more."""
        if not self.layers:
            self.layers, self._is_merged = other.layers, other._is_merged
        elif not other.layers:
            return
        elif self._is_merged or other._is_merged:
            self.layers = _extend_cache(self._merged(), other._merged())
            self._is_merged = True
        else:
            self.layers, self._is_merged = _merge_caches([self.layers, other.layers]), True

    def repeat(self, counts: list[int]) -> None:
        """Replace each row by `counts` copies of itself, each at least 1."""
        if all(count == 1 for count in counts):
            return
        if not self._is_merged:
            self.layers, self._is_merged = _merge_caches([self.layers]), True
        self.filter([row for row, count in enumerate(counts) for _ in range(count)])

    def filter(self, keep: list[int]) -> None:
        """Keep the rows at these places, at least one."""
        if self._is_merged and len(keep) == 1:
            # Its own form is faster, and right: mlx_lm's batch of a rotating window, once some row has left, masks the
            # wrong tokens of a pass of several.
            self.layers, self._is_merged = [layer.extract(keep[0]) for layer in self.layers], False
        elif self._is_merged:
            indices = mx.array(keep)
            for layer in self.layers:
                layer.filter(indices)

    def trim(self, num_tokens: int) -> None:
        """Take the last tokens of every row back out; only where every layer can."""
        for layer in self.layers:
            layer.trim(num_tokens)

    def evaluate(self) -> None:
        """Compute what was fed so far."""
        mx.eval([layer.state for layer in self.layers])

    def feed(self, model: Callable[..., mx.array], tokens: list[list[int]]) -> mx.array:
        """Run `tokens`, one list per row, through the model into the cache.

        The logits, shape (rows, tokens of the longest, vocabulary), are not computed until they are used.
        """
        longest = max(map(len, tokens))
        padding = [longest - len(row) for row in tokens]
        is_padded = any(padding)
        if is_padded:
            for layer in self.layers:
                layer.prepare(lengths=[len(row) for row in tokens], right_padding=padding)
        fed = mx.array([row + [0] * pad for row, pad in zip(tokens, padding, strict=True)])
        logits = model(fed, cache=self.layers)
        self.evaluate()
        if is_padded:
            for layer in self.layers:
                layer.finalize()
            self.evaluate()
        return logits

    def _merged(self) -> Cache:
        return self.layers if self._is_merged else _merge_caches([self.layers])


class RowCache:
    """One row of a cache, read where it lies; valid until the cache is next used."""

    __slots__ = ("_index", "_layers")

    def __init__(self, layers: Cache, index: int | None) -> None:
        self._layers = layers
        self._index = index

    def spans(self, start: int, stop: int) -> list[Span]:
        """Keys and values of the row's tokens `start` to `stop`, of each layer that can be cut by position."""
        layers = [layer for layer in flat_layers(self._layers) if is_span(layer)]
        row, padding = 0, 0
        if self._index is not None and layers:
            # All layers are padded alike.
            row, padding = self._index, int(layers[0].left_padding[self._index].item())
        tokens = slice(padding + start, padding + stop)

        def read(layer: Any) -> Span:
            if isinstance(layer, PartsCache):
                return layer.span(start, stop)
            return tuple(array[row : row + 1, :, tokens] for array in arrays_of(layer))

        return [tuple(map(mx.contiguous, read(layer))) for layer in layers]

    def checkpoint(self) -> Cache:
        """The layers that cannot be cut, as they are after the last token fed."""
        layers = [layer for layer in flat_layers(self._layers) if not is_span(layer)]
        return [
            # A lone row of a window has room for more, which is not to be kept.
            layer.extract(self._index or 0)
            if self._index is not None or isinstance(layer, WindowCache)
            else copy.deepcopy(layer)
            for layer in layers
        ]


def flat_layers(cache: Cache) -> Iterator[Any]:
    """A model's caches one by one, those that come in lists of several for a layer, too."""
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from flat_layers(list(layer.caches))
        else:
            yield layer


def num_bytes(cache: Cache) -> int:
    """Memory that a model's caches take."""
    return sum(layer.nbytes for layer in flat_layers(cache))


def is_span(layer: Any) -> bool:
    """Whether a layer's cache can be cut by position: something of its own for every token."""
    return type(layer) in (KVCache, PartsCache, BatchKVCache, QuantizedCache)


def arrays_of(layer: Any) -> list[mx.array]:
    """What a cache of keys and values is made of, each of shape (rows, heads, tokens, any)."""
    return layer.arrays if isinstance(layer, QuantizedCache | WindowCache) else [layer.keys, layer.values]


def restored(
    template: Cache, segments: list[list[Span]], checkpoint: Cache | None, num_tokens: int, room: int
) -> Cache:
    """A cache of the form of `template` that holds `num_tokens` tokens and has room for so many more.

    `segments` follow each other; of each there is a span for every layer that can be cut, and none is changed later.
    """
    attention = fast_attention()
    # Of each layer, the parts that follow each other.
    left_spans, left_checkpoint = iter(zip(*segments, strict=True)), iter(checkpoint or [])

    def layer(like: Any) -> Any:
        if isinstance(like, CacheList):
            return CacheList(*map(layer, like.caches))
        if not is_span(like):
            # A copy: the arrays of a cache are changed in place when it is used.
            return copy.deepcopy(next(left_checkpoint))
        parts: tuple[Any, ...] = next(left_spans)
        if attention is not None and not isinstance(like, QuantizedCache) and parts[0][0].dtype == mx.float32:
            return PartsCache(attention, parts, room)
        arrays = tuple(with_room(several, room) for several in zip(*parts, strict=True))
        if isinstance(like, QuantizedCache):
            return like.filled(arrays, num_tokens)
        cache = KVCache()
        cache.keys, cache.values = arrays
        cache.offset = num_tokens
        return cache

    return [layer(like) for like in template]
