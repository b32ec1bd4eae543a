"""mlx_lm's KV caches, of one row and of a batch: one object per layer."""

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import _extend_cache, _merge_caches  # pyright: ignore[reportPrivateUsage]
from mlx_lm.models.cache import make_prompt_cache

Cache = list[Any]


class BatchCache:
    """The cache of the rows that run together. A lone row keeps its own form, which is faster; the second brings the
    batched form. Owned by the worker's main thread.
    """

    __slots__ = ("_is_merged", "layers")

    def __init__(self, layers: Cache | None = None, *, is_merged: bool = False) -> None:
        self.layers: Cache = layers or []
        self._is_merged = is_merged

    @classmethod
    def new(cls, model: nn.Module, num_rows: int) -> "BatchCache":
        """An empty cache for `num_rows` rows."""
        if num_rows == 1:
            return cls(make_prompt_cache(model))
        return cls(_merge_caches([make_prompt_cache(model) for _ in range(num_rows)]), is_merged=True)

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

    def filter(self, keep: list[int]) -> None:
        """Keep the rows at these places, at least one."""
        if self._is_merged:
            indices = mx.array(keep)
            for layer in self.layers:
                layer.filter(indices)

    def evaluate(self) -> None:
        """Compute what was fed so far."""
        mx.eval([layer.state for layer in self.layers])

    def feed(self, model: nn.Module, tokens: list[list[int]]) -> None:
        """Run `tokens`, one list per row, through the model into the cache."""
        longest = max(map(len, tokens))
        padding = [longest - len(row) for row in tokens]
        is_padded = any(padding)
        if is_padded:
            for layer in self.layers:
                layer.prepare(lengths=[len(row) for row in tokens], right_padding=padding)
        model(mx.array([row + [0] * pad for row, pad in zip(tokens, padding, strict=True)]), cache=self.layers)
        self.evaluate()
        if is_padded:
            for layer in self.layers:
                layer.finalize()
            self.evaluate()

    def _merged(self) -> Cache:
        return self.layers if self._is_merged else _merge_caches([self.layers])
