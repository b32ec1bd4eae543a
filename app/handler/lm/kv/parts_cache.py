"""A row's cache that goes on from what is kept of other rows, without a copy of it as long as there need not be one."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from app.handler.cpu_attention import CpuAttention, Part


class PartsCache(KVCache):
    """To models and to mlx_lm a `KVCache`, whose arrays are joined when somebody asks for them.

    The first pass of several tokens does not, if our attention is all that looks at them: so the first token need not
    wait for the copy. `kept` are keys and values of the tokens before, which stay as they are, with `room` for so many
    after them in the copy. Owned by the worker's main thread.
    """

    def __init__(self, attention: CpuAttention, kept: Sequence[Part], room: int) -> None:
        # With those of the first pass as the last; none once they are joined.
        self._parts: list[Part] = []
        super().__init__()
        self._parts = list(kept)
        self._attention = attention
        self._room = room
        self._num_kept = sum(keys.shape[2] for keys, _ in kept)
        self.offset = self._num_kept

    @property
    def keys(self) -> Any:
        """One array, made when it is asked for; None when it is empty."""
        self._join()
        return self._keys

    @keys.setter
    def keys(self, value: Any) -> None:
        self._join()
        self._keys = value

    @property
    def values(self) -> Any:
        """As `keys`."""
        self._join()
        return self._values

    @values.setter
    def values(self, value: Any) -> None:
        self._join()
        self._values = value

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        """Add tokens, arrays of shape (1, heads, tokens, size); gives all there are."""
        is_first_pass = self.offset == self._num_kept and keys.shape[2] > 1
        if not self._parts or not is_first_pass:
            return super().update_and_fetch(keys, values)
        self.offset += keys.shape[2]
        self._parts.append((keys, values))
        return self._attention.joined(self._parts)

    def span(self, start: int, stop: int) -> Part:
        """Keys and values of the tokens `start` to `stop`, to read."""
        if not self._parts or start < self._num_kept:
            return self.keys[:, :, start:stop], self.values[:, :, start:stop]
        places = slice(start - self._num_kept, stop - self._num_kept)
        keys, values = self._parts[-1]
        return keys[:, :, places], values[:, :, places]

    @property
    def state(self) -> Any:
        """What is to be computed before others use it."""
        return self._parts or (self._keys, self._values, self.offset)

    @state.setter
    def state(self, v: Any) -> None:
        self.keys, self.values, self.offset = v

    @property
    def nbytes(self) -> int:
        """What it takes, or will when it is joined."""
        if not self._parts:
            return int(self._keys.nbytes + self._values.nbytes) if self._keys is not None else 0
        num_bytes = sum(keys.nbytes + values.nbytes for keys, values in self._parts)
        return num_bytes * max(self._num_kept + self._room, self.offset) // self.offset

    def trim(self, n: int) -> int:
        """Take the last tokens back out; gives their number."""
        self._join()
        return super().trim(n)

    def _join(self) -> None:
        if not self._parts:
            return
        parts, self._parts = self._parts, []
        room = max(0, self._num_kept + self._room - self.offset)
        keys, values = zip(*parts, strict=True)
        self._keys, self._values = with_room(keys, room), with_room(values, room)
        self._attention.forget()


def with_room(arrays: Sequence[mx.array], room: int) -> mx.array:
    """Arrays of shape (rows, heads, tokens, size) as one that can hold so many tokens more."""
    rows, heads, _, size = arrays[0].shape
    return mx.concatenate([*arrays, mx.zeros((rows, heads, room, size), arrays[0].dtype)], axis=2)
