"""What a prompt's tokens cost more, the more there is before them: attention looks at all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import mlx.core as mx
from mlx import nn

from app.core.model_config import num_heads
from app.handler.device import num_parameters
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import arrays_of, flat_layers, is_span


@dataclass(frozen=True, slots=True)
class ContextCost:
    """`even_at` is how many tokens a token sees when attention costs as much as all else; None where that is not known,
    and all tokens count alike.
    """

    even_at: float | None = None

    def of(self, num_seen: int, num_tokens: int) -> float:
        """How many first tokens of a prompt cost as much as `num_tokens` that come after `num_seen` others."""
        if self.even_at is None:
            return num_tokens
        return num_tokens * (1 + (num_seen + num_tokens / 2) / self.even_at)

    def affordable(self, num_seen: int, cost: int) -> int:
        """How many tokens after `num_seen` others cost as much as `cost` first tokens; at least one."""
        if self.even_at is None:
            return cost
        even = self.even_at + num_seen
        return max(1, int(sqrt(even * even + 2 * self.even_at * cost) - even))


def open_context_cost(form: CacheForm, config: Mapping[str, object]) -> ContextCost:
    """Reckoned from the sizes of a model, of which every layer sees all that came before."""
    cache = form.new()
    layers: list[Any] = list(flat_layers(cache))
    if not all(map(is_span, layers)) or not (heads := num_heads(config)):
        return ContextCost()
    # Only shapes are asked for: nothing is computed.
    form.model(mx.array([[0]]), cache=cache)
    sizes = [arrays_of(layer)[0].shape[-1] for layer in layers if layer.nbytes]
    if form.quantization is not None:
        sizes = [size * 32 // form.quantization.bits for size in sizes]
    if not sizes:
        return ContextCost()
    # Two products for each pair of tokens, against one for each weight that is used.
    return ContextCost(_num_used(form.model) / (2 * heads * sum(sizes)))


def _num_used(model: nn.Module) -> int:
    """Weights that every token of a prompt goes through, give or take experts: all but the first and the last."""
    ends = [
        num_parameters(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) or name.endswith("lm_head")
    ]
    return num_parameters(model) - sum(ends)
