"""A layer's keys and values of the latest tokens only, of one row or of the rows of a batch.

A token sees the first few tokens and the latest, `max_size` in all with itself, whatever pass it is in and whoever
runs beside it. mlx_lm's own window forgets the first tokens in a batch, and without them a model loses its thread.
Source: https://arxiv.org/abs/2309.17453
"""

from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# As many as mlx_lm keeps of a lone row.
NUM_FIRST = 4
_GROWTH = 256

Places = npt.NDArray[np.int64]


class WindowCache:
    """Rings: a row's token has its place by its number alone, so that rows of any length lie side by side. In mlx_lm's
    place for a `RotatingKVCache`; owned by the worker's main thread.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        # Keys and values, of shape (rows, heads, places, dims) each; neither before the first token.
        self.arrays: list[mx.array] = []
        self._fed: list[int] | None = None
        self._set_lengths([0])

    def _set_lengths(self, lengths: list[int]) -> None:
        """How many tokens each row has had."""
        self._lengths = lengths
        self.offset: int | mx.array = lengths[0] if len(lengths) == 1 else mx.array(lengths)

    @classmethod
    def merge(cls, caches: "list[WindowCache]") -> "WindowCache":
        """The batch of several rows, or of several batches."""
        merged = cls(caches[0].max_size)
        merged._set_lengths([length for cache in caches for length in cache._lengths])
        like = next((cache.arrays for cache in caches if cache.arrays), [])
        merged.arrays = [
            mx.concatenate([cache._sized(which, merged.size(), array) for cache in caches])
            for which, array in enumerate(like)
        ]
        return merged

    @classmethod
    def from_state(cls, state: Any) -> "WindowCache":
        """The cache whose `state` it was."""
        arrays, lengths, max_size = state
        cache = cls(max_size)
        cache.arrays = list(arrays)
        cache._set_lengths(list(lengths))
        return cache

    @property
    def state(self) -> tuple[list[mx.array], list[int], int]:
        """All there is to it."""
        return self.arrays, self._lengths, self.max_size

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        """Add tokens, in arrays of shape (rows, heads, tokens, dims); gives those that `make_mask` has masked."""
        return self._add_one((keys, values)) if keys.shape[2] == 1 else self._add((keys, values))

    def make_mask(self, num_tokens: int, window_size: int | None = None, return_array: bool = False) -> Any:
        """What each of the tokens to come may look at. Errors: ValueError for a model with windows of its own."""
        if window_size is not None:
            raise ValueError("a window in a window")
        if num_tokens == 1:
            held = min(max(self._lengths) + 1, self.max_size)
            if min(self._lengths) + 1 >= held:
                return None
            return mx.arange(held) <= mx.array(self._lengths)[:, None, None, None]
        if len(self._lengths) == 1 and self._lengths[0] + num_tokens <= self.max_size and not return_array:
            return "causal"
        new = np.array(self._lengths)[:, None] + np.arange(num_tokens)
        seen = mx.array(np.concatenate([self._tokens_at(self._lengths, self.size()), new], axis=1))[:, None, None]
        own = mx.array(new)[:, None, :, None]
        return (seen >= 0) & (seen <= own) & ((seen < NUM_FIRST) | (seen > own - self._num_latest))

    def extend(self, other: "WindowCache") -> None:
        """Append the rows of another batch."""
        both = WindowCache.merge([self, other])
        self.arrays = both.arrays
        self._set_lengths(both._lengths)

    def filter(self, batch_indices: mx.array) -> None:
        """Keep some rows of a batch."""
        self._set_lengths([self._lengths[int(place)] for place in batch_indices.tolist()])  # type: ignore[union-attr]
        self.arrays = [array[batch_indices][:, :, : self.size()] for array in self.arrays]

    def extract(self, idx: int) -> "WindowCache":
        """One row of a batch."""
        row = WindowCache(self.max_size)
        row._set_lengths([self._lengths[idx]])
        row.arrays = [mx.contiguous(array[idx : idx + 1, :, : row.size()]) for array in self.arrays]
        return row

    def prepare(self, *, lengths: list[int], **_padding: Any) -> None:
        """Of the tokens to come, each row has so many; what follows them is padding."""
        self._fed = lengths

    def finalize(self) -> None:
        """They have come."""
        self._fed = None

    def is_trimmable(self) -> bool:
        """A token that was let go for a later one does not come back."""
        return False

    def size(self) -> int:
        """Places in use."""
        return min(max(self._lengths), self.max_size)

    @property
    def nbytes(self) -> int:
        """Memory."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def _num_latest(self) -> int:
        return self.max_size - NUM_FIRST

    def _add_one(self, given: tuple[mx.array, ...]) -> tuple[mx.array, ...]:
        """A decode step: each row's token goes into its place in the ring."""
        places = self._places_of(np.array(self._lengths))
        self._set_lengths([length + 1 for length in self._lengths])
        held = self.size()
        if not self.arrays or self.arrays[0].shape[2] < held:
            room = min(held - held % -_GROWTH, self.max_size)
            self.arrays = [self._sized(which, room, tokens) for which, tokens in enumerate(given)]
        self.arrays = [_written(ring, token, places) for ring, token in zip(self.arrays, given, strict=True)]
        return tuple(ring[:, :, :held] for ring in self.arrays)

    def _add(self, given: tuple[mx.array, ...]) -> tuple[mx.array, ...]:
        """A prefill pass: its tokens see those before it, and then what is not to be forgotten is put in its place."""
        held, before = self.size(), np.array(self._lengths)
        everything = tuple(
            mx.concatenate([self._sized(which, held, tokens), tokens], axis=2) for which, tokens in enumerate(given)
        )
        after = before + (np.array(self._fed) if self._fed is not None else given[0].shape[2])
        self._set_lengths(after.tolist())
        if len(after) == 1 and after[0] <= self.max_size:
            self.arrays = list(everything)
        else:
            tokens = self._tokens_at(self._lengths, self.size())
            is_old = tokens < before[:, None]
            source = np.where(is_old, self._places_of(tokens), held + tokens - before[:, None]).clip(0)
            where = mx.array(source)[:, None, :, None]
            self.arrays = [mx.take_along_axis(array, where, axis=2) for array in everything]
        return everything

    def _sized(self, which: int, num_places: int, like: mx.array) -> mx.array:
        """One of the arrays with so many places; zeros where it has none, of the heads, dims and type of `like`."""
        _, heads, _, dims = like.shape
        held = self.arrays[which][:, :, :num_places] if self.arrays else None
        missing = num_places - (held.shape[2] if held is not None else 0)
        if held is not None and not missing:
            return held
        nothing = mx.zeros((len(self._lengths), heads, missing, dims), dtype=like.dtype)
        return nothing if held is None else mx.concatenate([held, nothing], axis=2)

    def _places_of(self, tokens: Places) -> Places:
        """Where in the ring a row's tokens are, by their numbers."""
        return np.where(tokens < self.max_size, tokens, NUM_FIRST + (tokens - NUM_FIRST) % self._num_latest)

    def _tokens_at(self, lengths: list[int], num_places: int) -> Places:
        """Which tokens are in the first places, shape (rows, places); -1 where there is none yet."""
        totals, places = np.array(lengths)[:, None], np.arange(num_places)[None]
        rounds = np.where(places < NUM_FIRST, 0, (totals - 1 - places) // self._num_latest)
        return np.where(places < totals, places + rounds * self._num_latest, -1)


def _written(ring: mx.array, token: mx.array, places: Places) -> mx.array:
    """`ring` with one token of each row, shape (rows, heads, 1, dims), in its place."""
    if (places == places[0]).all():
        ring[:, :, int(places[0]) : int(places[0]) + 1] = token
    else:
        rows, heads = mx.arange(ring.shape[0])[:, None], mx.arange(ring.shape[1])[None]
        ring[rows, heads, mx.array(places)[:, None]] = token[:, :, 0]
    return ring
