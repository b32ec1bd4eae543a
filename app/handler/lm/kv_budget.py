"""How much memory the KV caches of running requests may take, estimated before it is taken."""

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from app.handler.lm.caches import flat_layers, is_span


@dataclass(frozen=True, slots=True)
class KvBudget:
    """`token_bytes` grow with every token of a row, `row_bytes` are there from its first (windows, states)."""

    max_bytes: int
    token_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, model: nn.Module, max_bytes: int) -> "KvBudget":
        """Measured on the shapes of a first token; nothing is computed."""
        cache = make_prompt_cache(model)
        model(mx.array([[0]]), cache=cache)
        token_bytes, row_bytes = 0, 0
        for layer in flat_layers(cache):
            if is_span(layer):
                token_bytes += layer.nbytes // layer.keys.shape[2]
            elif (window := getattr(layer, "max_size", None)) and layer.keys is not None:
                row_bytes += layer.nbytes // layer.keys.shape[2] * window
            else:
                row_bytes += layer.nbytes
        return cls(max_bytes, token_bytes, row_bytes)

    @property
    def longest_row(self) -> int:
        """Tokens that a single row can have."""
        return max(0, self.max_bytes - self.row_bytes) // max(1, self.token_bytes)

    def fits(self, num_rows: int, longest: int) -> bool:
        """Whether so many rows fit, each padded to the `longest`, as the rows of a batch are."""
        return num_rows * (self.row_bytes + longest * self.token_bytes) <= self.max_bytes
