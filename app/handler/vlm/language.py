"""The language model inside a vision-language model, called and cached as mlx_lm's models are."""

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_vlm.models import cache as vlm_cache

from app.errors import ModelLoadError
from app.handler.lm.kv.caches import Cache

# Rotary positions of three numbers (time, row, column), given from outside. The other families whose language model
# keeps the positions of its last prompt to itself cannot have rows that take turns.
_MULTIMODAL_POSITIONS = frozenset(
    {
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "paddleocr_vl",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_vl",
        "qwen3_vl_moe",
    }
)


class LanguageSide(nn.Module):
    """Owned by the worker's main thread. `whole` is the model as mlx_vlm loads it.

    Errors: ModelLoadError where its rows could not run beside each other.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        # A part of this one, so that its weights are counted and converted with it.
        self.whole: Any = whole
        kind = str(getattr(getattr(whole, "config", None), "model_type", "unknown"))
        language = getattr(whole, "language_model", None)
        if not isinstance(language, nn.Module):
            raise ModelLoadError(f"Models of type {kind} have no language model of their own; they cannot be served.")
        self.has_multimodal_positions = kind in _MULTIMODAL_POSITIONS
        keeps_positions = hasattr(language, "_rope_deltas") or hasattr(language, "_position_ids")
        if keeps_positions and not self.has_multimodal_positions:
            raise ModelLoadError(
                f"Models of type {kind} keep positions of one prompt inside the model, so that requests could not "
                "take turns; they cannot be served."
            )

    @property
    def layers(self) -> Any:
        """As mlx_lm's models have them."""
        return self.whole.language_model.layers

    def make_cache(self) -> Cache:
        """Empty caches for one row: of mlx_lm's classes where mlx_vlm's do the same."""
        return [_in_kind(layer) for layer in vlm_cache.make_prompt_cache(self.whole.language_model)]

    def __call__(
        self, tokens: mx.array, cache: Cache | None = None, position_shifts: mx.array | None = None, **inputs: Any
    ) -> mx.array:
        """The logits, shape (rows, tokens, vocabulary).

        `position_shifts`, shape (rows,), moves the positions of rows that have seen something; `inputs` are what the
        model takes in place of its own embeddings and positions.
        """
        if self.has_multimodal_positions and "position_ids" not in inputs:
            inputs["position_ids"] = _positions(tokens.shape, cache, position_shifts)
        return self.whole.language_model(tokens, cache=cache, **inputs).logits


def _in_kind(layer: Any) -> Any:
    if type(layer) is vlm_cache.KVCache:
        return KVCache()
    if type(layer) is vlm_cache.RotatingKVCache:
        return RotatingKVCache(max_size=layer.max_size, keep=layer.keep)
    return layer


def _positions(shape: tuple[int, ...], cache: Cache | None, shifts: mx.array | None) -> mx.array:
    """Where text goes on, shape (3, rows, tokens), all three numbers alike."""
    num_rows, num_tokens = shape
    offset: mx.array | int = next((layer.offset for layer in cache or [] if hasattr(layer, "offset")), 0)
    if shifts is None and not isinstance(offset, mx.array):
        return mx.broadcast_to(mx.arange(offset, offset + num_tokens), (3, num_rows, num_tokens))
    # The padding before a row's first token has negative places.
    starts = mx.maximum(offset, 0).reshape(-1, 1) if isinstance(offset, mx.array) else mx.array([[offset]])
    if shifts is not None:
        starts = starts + shifts.reshape(-1, 1)
    places = starts + mx.arange(num_tokens)[None]
    return mx.broadcast_to(places[None], (3, num_rows, num_tokens))
