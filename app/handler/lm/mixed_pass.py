"""Tokens of prompts and of the rows that decode, in one forward pass: the weights are read once for both.

To the model, each of these tokens is a row of its own with one token, as in a decode step. Only attention has to know
which of them belong together: it is computed for each prompt and for the rows by themselves, with their own caches.
Source: https://arxiv.org/abs/2308.16369
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, RotatingKVCache

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache, Cache
from app.handler.lm.kv.quantized_cache import QuantizedCache
from app.handler.lm.kv.window_cache import WindowCache
from app.handler.lm.tail import Tail, are_alike

# Their keys and values are found by position; states have to be computed in order, each prompt's by itself.
_KINDS = (KVCache, RotatingKVCache, QuantizedCache, WindowCache)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows with equally many tokens in a pass, and their cache."""

    layers: Cache
    num_rows: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Fed:
    """Tokens for a prompt's cache; `wants_logits` after the last of them."""

    cache: Cache
    tokens: list[int]
    wants_logits: bool = False


class MixedPass:
    """Owned by the worker's main thread. `model` is one for which `open_mixed_pass` has found that it takes this."""

    def __init__(self, model: nn.Module, tail: Tail) -> None:
        self._model = model
        self._tail = tail

    def run(self, prompts: Sequence[Fed], rows: Cache, tokens: mx.array, **options: mx.array) -> mx.array:
        """Feed prompts, and one token of each row of a batch.

        `tokens` has shape (rows,), and the values of `options`, too. The logits of the rows, then of the prompts that
        want them, shape (rows and prompts, 1, vocabulary), are computed, and all caches are up to date.
        """
        num_rows = tokens.shape[0]
        parts = [Part(fed.cache, 1, len(fed.tokens)) for fed in prompts]
        parts.append(Part(rows, num_rows, 1))
        flat = mx.array([token for fed in prompts for token in fed.tokens], dtype=tokens.dtype)
        wide = {name: mx.concatenate([mx.zeros(len(flat), one.dtype), one]) for name, one in options.items()}
        ends = accumulate(len(fed.tokens) for fed in prompts)
        lasts = [end - 1 for fed, end in zip(prompts, ends, strict=True) if fed.wants_logits]
        picked = mx.array([*range(len(flat), len(flat) + num_rows), *lasts])
        with _attention_by_parts(), self._tail.only(lambda given: given[picked]):
            logits = self._model(mx.concatenate([flat, tokens])[:, None], cache=_layers_of(parts), **wide)
        mx.eval(logits, [layer.state for part in parts for layer in part.layers])
        return logits


def open_mixed_pass(form: CacheForm, tail: Tail | None) -> MixedPass | None:
    """None where a model cannot do this: tried out on a few tokens, against passes of their own."""
    if tail is None or not all(type(layer) in _KINDS for layer in form.new()):
        return None
    mixed = MixedPass(form.model, tail)
    try:
        is_right = _agrees(form, mixed)
    # Whatever a model raises at what it was not made for; it runs without.
    except Exception as error:
        logger.debug("prompts run in passes of their own: {}", error)
        return None
    if not is_right:
        logger.debug("prompts run in passes of their own: mixed with rows, the model says something else")
    return mixed if is_right else None


def _agrees(form: CacheForm, mixed: MixedPass) -> bool:
    """Whether a prompt and two rows get the same in a pass together as apart, and leave the same behind."""

    def begun() -> tuple[Cache, BatchCache]:
        prompt, rows = form.new(), [form.new(), form.new()]
        for cache, num_tokens in zip([prompt, *rows], (3, 7, 2), strict=True):
            BatchCache(cache).feed(form.model, [list(range(1, 1 + num_tokens))])
        return prompt, BatchCache.of(rows)

    fed, tokens = [9, 8, 7, 6, 5, 4], mx.array([3, 2], dtype=mx.uint32)
    prompt, rows = begun()
    together = mixed.run([Fed(prompt, fed, wants_logits=True)], rows.layers, tokens)
    lone_prompt, lone_rows = begun()
    apart = [
        form.model(tokens[:, None], cache=lone_rows.layers),
        form.model(mx.array([fed]), cache=lone_prompt)[:, -1:],
    ]
    if not are_alike(together, mx.concatenate(apart)):
        return False
    pairs = ((rows.layers, lone_rows.layers, [[1], [1]]), (prompt, lone_prompt, [[1]]))
    return all(
        are_alike(form.model(mx.array(after), cache=one), form.model(mx.array(after), cache=other))
        for one, other, after in pairs
    )


@dataclass(frozen=True, slots=True)
class _Masks:
    """What the tokens of each part may look at, handed through the model as if it were one array for all."""

    values: list[Any]


@dataclass(slots=True)
class _Added:
    """In place of a layer's keys, as `_Masks` of its mask: keys and values to add to each part's cache, and `whole`,
    what that holds once they are. A model may look at one layer's from several.
    """

    layer: "_MixedLayer"
    values: list[tuple[mx.array, mx.array]]
    whole: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])


class _MixedLayer:
    """What a model takes for a layer's cache: the caches of every part."""

    def __init__(self, parts: Sequence[Part], layers: Cache, offset: mx.array) -> None:
        self.parts = parts
        self.layers = layers
        self.offset = offset

    def make_mask(self, num_tokens: int, **options: Any) -> _Masks:
        """What the tokens of each part may look at."""
        masks = [
            layer.make_mask(part.num_tokens, **options) for part, layer in zip(self.parts, self.layers, strict=True)
        ]
        return _Masks(masks)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[_Added, mx.array]:
        """What each part's cache is to be given, from arrays of shape (all tokens, heads, 1, size)."""
        return _Added(self, list(zip(self.split(keys), self.split(values), strict=True))), values

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

    def attend(self, queries: mx.array, added: _Added, mask: _Masks, **options: Any) -> mx.array:
        """Attention of each part by itself, shape (all tokens, heads, 1, size), with its tokens added to its cache."""
        sought: list[mx.array] = []
        for place, (own, layer, own_mask) in enumerate(zip(self.split(queries), self.layers, mask.values, strict=True)):
            if place == len(added.whole):
                added.whole.append(layer.update_and_fetch(*added.values[place]))
            keys, values = added.whole[place]
            sought.append(scaled_dot_product_attention(own, keys, values, cache=layer, mask=own_mask, **options))
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
        if not isinstance(keys, _Added):
            return plain(queries, keys, values, mask=mask, **options)
        if not isinstance(mask, _Masks):
            raise ValueError("the model has a mask of its own")
        return keys.layer.attend(queries, keys, mask, **options)

    mx.fast.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention = plain
