"""Which caches a model runs with: those it asks for, or, where the settings say so, in few bits or with a window."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import CacheList, KVCache, can_trim_prompt_cache, make_prompt_cache

from app.errors import ModelLoadError
from app.handler.lm.kv.caches import Cache, arrays_of, flat_layers
from app.handler.lm.kv.quantized_cache import Quantization, QuantizedCache
from app.handler.lm.kv.window_cache import WindowCache
from app.settings import ModelSpec

# What the libraries' models raise at a cache that is not what they expect.
_MISFITS = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class CacheForm:
    """Makes the caches of one model; `window` is the most tokens of a layer."""

    model: nn.Module
    quantization: Quantization | None = None
    window: int | None = None

    def new(self) -> Cache:
        """An empty cache for one row."""
        cache = make_prompt_cache(self.model)
        if self.window is not None:
            return [WindowCache(self.window) for _ in cache]
        return [self._quantized(layer) for layer in cache]

    @property
    def can_batch(self) -> bool:
        """Whether rows can run together: mlx_lm has no batched form for a few kinds of cache."""
        return all(hasattr(layer, "merge") for layer in self.new())

    @property
    def can_trim(self) -> bool:
        """Whether tokens can be taken back out."""
        return can_trim_prompt_cache(self.new())

    @property
    def name(self) -> str:
        """Tells forms apart whose contents mean different things."""
        few_bits = self.quantization
        parts = [f"{few_bits.bits} bits in groups of {few_bits.group_size}"] if few_bits is not None else []
        return " ".join([*parts, f"window of {self.window}"] if self.window is not None else parts)

    def _quantized(self, layer: Any) -> Any:
        if self.quantization is None:
            return layer
        if isinstance(layer, CacheList):
            return CacheList(*map(self._quantized, layer.caches))
        return QuantizedCache(self.quantization) if type(layer) is KVCache else layer


def open_cache_form(spec: ModelSpec, model: nn.Module) -> CacheForm:
    """The form that the settings ask for. Errors: ModelLoadError when the model cannot run with it."""
    if spec.max_kv_size is not None:
        if spec.kv_bits is not None:
            raise ModelLoadError("What is in a window is not quantised: give either --max-kv-size or --kv-bits.")
        return _windowed(model, spec.max_kv_size)
    if spec.kv_bits is not None:
        return _in_few_bits(model, Quantization(spec.kv_bits, spec.kv_group_size))
    return CacheForm(model)


def _windowed(model: nn.Module, window: int) -> CacheForm:
    if any(type(layer) is not KVCache for layer in make_prompt_cache(model)):
        raise ModelLoadError(
            "This model has layers with windows or states of their own, to which --max-kv-size cannot be applied;"
            " start without it."
        )
    form = CacheForm(model, window=window)
    if not _runs(form):
        raise ModelLoadError("This model's attention cannot run in a window; start without --max-kv-size.")
    return form


def _in_few_bits(model: nn.Module, quantization: Quantization) -> CacheForm:
    plain = make_prompt_cache(model)
    model(mx.array([[0]]), cache=plain)
    layers = [layer for layer in flat_layers(plain) if type(layer) is KVCache and layer.keys is not None]
    if not layers:
        raise ModelLoadError("This model has no layer whose KV cache could be quantised; start without --kv-bits.")
    sizes = {array.shape[-1] for layer in layers for array in arrays_of(layer)}
    if unfit := [size for size in sorted(sizes) if size % quantization.group_size]:
        raise ModelLoadError(
            f"--kv-group-size {quantization.group_size} does not divide the size of this model's heads ({unfit[0]});"
            " choose a group size that does, or start without --kv-bits."
        )
    form = CacheForm(model, quantization)
    if _runs(form):
        return form
    # Attention of its own kind, or with sinks.
    form = CacheForm(model, replace(quantization, is_attended=False))
    if not _runs(form):
        raise ModelLoadError("This model's attention cannot run on a quantised KV cache; start without --kv-bits.")
    return form


def _runs(form: CacheForm) -> bool:
    """Whether the model takes such a cache; only shapes are asked for, nothing is computed."""
    try:
        cache = form.new()
        for num_tokens in (2, 1):
            form.model(mx.array([[0] * num_tokens]), cache=cache)
    except _MISFITS:
        return False
    return True
