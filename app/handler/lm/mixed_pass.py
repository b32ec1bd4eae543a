"""Tokens of prompts and of the rows that decode, in one forward pass: the weights are read once for both.

To the model, each of these tokens is a row of its own with one token, as in a decode step. Only attention has to know
which of them belong together: it is computed for each prompt and for the rows by themselves, with their own caches.
Source: https://arxiv.org/abs/2308.16369
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, RotatingKVCache

from app.handler.lm.kv.cache_form import MISFITS, CacheForm
from app.handler.lm.kv.caches import BatchCache, Cache
from app.handler.lm.kv.quantized_cache import QuantizedCache
from app.handler.lm.kv.window_cache import WindowCache

# Their keys and values are found by position; states have to be computed in order, each prompt's by itself.
_KINDS = (KVCache, RotatingKVCache, QuantizedCache, WindowCache)
# How far apart the results may be that are computed both ways, as a part of their size.
_TOLERANCE = {mx.float32: 1e-3}
_TOLERANCE_OF_16_BITS = 0.1


@dataclass(frozen=True, slots=True)
class Part:
    """Rows with equally many tokens in a pass, and their cache."""

    layers: Cache
    num_rows: int
    num_tokens: int


class MixedPass:
    """Owned by the worker's main thread. `model` is one for which `open_mixed_pass` has found that it takes this."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._holder = _holder_of_body(model)

    def run(
        self, prompts: Sequence[tuple[Cache, list[int]]], rows: Cache, tokens: mx.array, **options: mx.array
    ) -> mx.array:
        """Feed each of `prompts`, a lone row's cache and tokens for it, and one token of each row of a batch.

        `tokens` has shape (rows,), and the values of `options`, too. The logits of the rows, shape (rows, 1,
        vocabulary), are computed, and all caches are up to date.
        """
        num_rows = tokens.shape[0]
        parts = [Part(cache, 1, len(fed)) for cache, fed in prompts]
        parts.append(Part(rows, num_rows, 1))
        flat = mx.array([token for _, fed in prompts for token in fed], dtype=tokens.dtype)
        fed = mx.concatenate([flat, tokens])[:, None]
        wide = {name: mx.concatenate([mx.zeros(len(flat), one.dtype), one]) for name, one in options.items()}
        with _attention_by_parts(), self._only_last(num_rows):
            logits = self._model(fed, cache=_layers_of(parts), **wide)
        mx.eval(logits, [layer.state for part in parts for layer in part.layers])
        return logits

    @contextmanager
    def _only_last(self, num_rows: int) -> Generator[None]:
        """Have the model's head see the last rows only: nobody asks for the logits of a prompt."""
        body = self._holder.model
        # Hides the module of that name, which stays where it is.
        object.__setattr__(self._holder, "model", _Tail(body, num_rows))
        try:
            yield
        finally:
            object.__delattr__(self._holder, "model")


def open_mixed_pass(form: CacheForm) -> MixedPass | None:
    """None where a model cannot do this: tried out on a few tokens, against passes of their own."""
    if not all(type(layer) in _KINDS for layer in form.new()):
        return None
    try:
        is_right = _agrees(form, MixedPass(form.model))
    except (*MISFITS, KeyError, UnboundLocalError) as error:
        logger.debug("prompts run in passes of their own: {}", error)
        return None
    if not is_right:
        logger.debug("prompts run in passes of their own: mixed with rows, the model says something else")
    return MixedPass(form.model) if is_right else None


def _agrees(form: CacheForm, mixed: MixedPass) -> bool:
    """Whether a prompt and two rows get the same in a pass together as apart, and leave the same behind."""

    def begun() -> tuple[Cache, BatchCache]:
        prompt, rows = form.new(), [form.new(), form.new()]
        for cache, num_tokens in zip([prompt, *rows], (3, 7, 2), strict=True):
            BatchCache(cache).feed(form.model, [list(range(1, 1 + num_tokens))])
        return prompt, BatchCache.of(rows)

    fed, tokens = [9, 8, 7, 6, 5, 4], mx.array([3, 2], dtype=mx.uint32)
    prompt, rows = begun()
    together = mixed.run([(prompt, fed)], rows.layers, tokens)
    lone_prompt, lone_rows = begun()
    apart = form.model(tokens[:, None], cache=lone_rows.layers)
    BatchCache(lone_prompt).feed(form.model, [fed])
    pairs = [(together, apart)]
    for one, other in ((rows.layers, lone_rows.layers), (prompt, lone_prompt)):
        after = mx.array([[1]] * (2 if one is rows.layers else 1))
        pairs.append((form.model(after, cache=one), form.model(after, cache=other)))
    return all(_are_alike(one, other) for one, other in pairs)


def _are_alike(one: mx.array, other: mx.array) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = _TOLERANCE.get(other.dtype, _TOLERANCE_OF_16_BITS)
    apart = mx.linalg.norm((one - other).astype(mx.float32))
    return bool(mx.all(apart <= tolerance * mx.linalg.norm(other.astype(mx.float32))).item())


class _Tail:
    """What a model has below its head, of which the head is given the last rows."""

    def __init__(self, body: Callable[..., mx.array], num_rows: int) -> None:
        self._body = body
        self._num_rows = num_rows

    def __call__(self, *inputs: Any, **options: Any) -> mx.array:
        return self._body(*inputs, **options)[-self._num_rows :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


@dataclass(frozen=True, slots=True)
class _PerPart:
    """Something of a layer for each part of a pass, handed through the model as if it were one array for all."""

    layer: "_MixedLayer"
    values: list[Any]


class _MixedLayer:
    """What a model takes for a layer's cache: the caches of every part."""

    def __init__(self, parts: Sequence[Part], layers: Cache, offset: mx.array) -> None:
        self.parts = parts
        self.layers = layers
        self.offset = offset

    def make_mask(self, num_tokens: int, **options: Any) -> _PerPart:
        """What the tokens of each part may look at."""
        masks = [
            layer.make_mask(part.num_tokens, **options) for part, layer in zip(self.parts, self.layers, strict=True)
        ]
        return _PerPart(self, masks)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[_PerPart, mx.array]:
        """Add the tokens of each part to its cache, from arrays of shape (all tokens, heads, 1, size)."""
        added = [
            layer.update_and_fetch(own_keys, own_values)
            for layer, own_keys, own_values in zip(self.layers, self.split(keys), self.split(values), strict=True)
        ]
        return _PerPart(self, added), values

    def split(self, array: mx.array) -> list[mx.array]:
        """Of each part, as attention has it: (rows, heads, tokens, size)."""
        pieces: list[mx.array] = []
        start = 0
        for part in self.parts:
            stop = start + part.num_rows * part.num_tokens
            _, heads, _, size = array.shape
            piece = array[start:stop].reshape(part.num_rows, part.num_tokens, heads, size)
            pieces.append(piece.swapaxes(1, 2))
            start = stop
        return pieces

    def attend(self, queries: mx.array, added: _PerPart, mask: _PerPart, **options: Any) -> mx.array:
        """Attention of each part by itself, shape (all tokens, heads, 1, size)."""
        sought = [
            scaled_dot_product_attention(own, keys, values, cache=layer, mask=own_mask, **options)
            for own, (keys, values), layer, own_mask in zip(
                self.split(queries), added.values, self.layers, mask.values, strict=True
            )
        ]
        heads = queries.shape[1]
        return mx.concatenate([one.swapaxes(1, 2).reshape(-1, heads, 1, one.shape[-1]) for one in sought])


def _layers_of(parts: Sequence[Part]) -> list[_MixedLayer]:
    # The same in every layer, and told before any of them is fed.
    offset = mx.concatenate([_positions(part) for part in parts])
    return [_MixedLayer(parts, list(layers), offset) for layers in zip(*(part.layers for part in parts), strict=True)]


def _positions(part: Part) -> mx.array:
    """Of each of its tokens, shape (tokens,)."""
    offset = mx.array(part.layers[0].offset).reshape(-1, 1)
    return (offset + mx.arange(part.num_tokens)).reshape(-1)


@contextmanager
def _attention_by_parts() -> Generator[None]:
    """Have attention know its parts: models call it each from its own code, and hand through what they are given."""
    plain = mx.fast.scaled_dot_product_attention

    def attention(queries: mx.array, keys: Any, values: Any, *, mask: Any = None, **options: Any) -> mx.array:
        if not isinstance(keys, _PerPart):
            return plain(queries, keys, values, mask=mask, **options)
        if not isinstance(mask, _PerPart):
            raise ValueError("the model has a mask of its own")
        return keys.layer.attend(queries, keys, mask, **options)

    mx.fast.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention = plain


def _holder_of_body(model: Any) -> Any:
    """The module that has the model's body as `model`, and applies its head to what that gives."""
    for name in ("whole", "language_model"):
        inner = getattr(model, name, None)
        model = inner if isinstance(inner, nn.Module) else model
    if not isinstance(getattr(model, "model", None), nn.Module):
        raise TypeError("the model has no body apart from its head")
    return model
