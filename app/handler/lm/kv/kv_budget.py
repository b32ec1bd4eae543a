"""How much memory the KV caches of running requests may take, estimated before it is taken."""

import sys
from dataclasses import dataclass

import mlx.core as mx

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import arrays_of, flat_layers, is_span
from app.handler.lm.kv.window_cache import WindowCache


@dataclass(frozen=True, slots=True)
class KvBudget:
    """`token_bytes` grow with every token of a row, up to `window` if it is given; `row_bytes` are there from its first
    (windows of the model's own, states).
    """

    max_bytes: int
    token_bytes: int
    row_bytes: int
    window: int | None = None

    @classmethod
    def of(cls, form: CacheForm, max_bytes: int) -> "KvBudget":
        """Measured on the shapes of a first token; nothing is computed."""
        cache = form.new()
        form.model(mx.array([[0]]), cache=cache)
        token_bytes, row_bytes = 0, 0
        for layer in flat_layers(cache):
            if is_span(layer) or isinstance(layer, WindowCache):
                token_bytes += layer.nbytes // arrays_of(layer)[0].shape[2]
            elif (window := getattr(layer, "max_size", None)) and layer.keys is not None:
                row_bytes += layer.nbytes // layer.keys.shape[2] * window
            else:
                row_bytes += layer.nbytes
        return cls(max_bytes, token_bytes, row_bytes, form.window)

    @property
    def longest_row(self) -> int:
        """Tokens that a single row can have."""
        longest = max(0, self.max_bytes - self.row_bytes) // max(1, self.token_bytes)
        return longest if self.window is None or longest < self.window else sys.maxsize

    def fits(self, num_rows: int, longest: int) -> bool:
        """Whether so many rows fit, each padded to the `longest`, as the rows of a batch are."""
        longest = longest if self.window is None else min(longest, self.window)
        return num_rows * (self.row_bytes + longest * self.token_bytes) <= self.max_bytes
