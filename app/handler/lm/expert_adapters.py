"""Adapters of the experts in a mixture, by row: what `row_adapters` does for linear layers.

The library sorts many tokens by expert before it calls the layers, which then cannot tell whose they are. So the part
around them, which is called with all tokens in their order, finds out first.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from app.handler.lm.row_adapters import AdaptedLayer, LoRALayer, RowAdapters

# Those whose way of sorting is known: `_gather_sort` of the same module.
EXPERTS = (SwitchGLU, SwitchMLP)


class ExpertTokens:
    """Whose tokens the experts of one layer are given, while they are called. Owned by the worker's main thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """They are called no more: what is not computed yet would keep in memory what it is computed from."""
        self._in_order = self._sorted = mx.array(0)

    def note(self, indices: mx.array, tokens_per_row: int) -> None:
        """They are called for these experts, shape (any, experts of a token)."""
        *leading, num_experts = indices.shape
        self._in_order = (mx.arange(indices.size // num_experts) // tokens_per_row).reshape(*leading, 1)
        self._sorted = mx.argsort(indices.flatten()) // (num_experts * tokens_per_row)

    def rows(self, *, is_sorted: bool) -> mx.array:
        """The row of each token, in a shape that goes with that of the experts as a layer is given them."""
        return self._sorted if is_sorted else self._in_order


class AdaptedExperts(nn.Module):
    """The part around the layers of experts."""

    def __init__(self, inner: Callable[..., mx.array], rows: RowAdapters, tokens: ExpertTokens) -> None:
        super().__init__()
        self.inner = inner
        self._rows = rows
        self._tokens = tokens

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """What the experts give."""
        if not self._rows.is_running:
            return self.inner(x, indices)
        self._tokens.note(indices, self._rows.tokens_per_row(indices.shape))
        try:
            return self.inner(x, indices)
        finally:
            self._tokens.forget()


class AdaptedSwitchLinear(AdaptedLayer):
    """`LoRASwitchLinear` for rows with different adapters."""

    def __init__(self, adapters: Sequence[LoRALayer | None], rows: RowAdapters, tokens: ExpertTokens) -> None:
        super().__init__(adapters, rows)
        self._num_experts = self.lora_a.shape[1]
        self.lora_a = self.lora_a.flatten(0, 1)
        self.lora_b = self.lora_b.flatten(0, 1)
        self._tokens = tokens

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """The base layer's output and, by token, its row's adapter's of the same expert."""
        y = self.linear(x, indices, sorted_indices=sorted_indices)
        share = self._rows.share_of(self._places)
        if share is None:
            return y
        of_tokens = self._tokens.rows(is_sorted=sorted_indices)
        experts = share.places[of_tokens] * self._num_experts + indices
        z = mx.gather_mm(x, self.lora_a.swapaxes(-1, -2), rhs_indices=experts)
        z = mx.gather_mm(z, self.lora_b.swapaxes(-1, -2), rhs_indices=experts)
        return y + (share.scales[of_tokens].astype(z.dtype) * z).astype(x.dtype)
