"""A layer's keys and values in a few bits each, of one row or of the rows of a batch.

mlx_lm's own quantised cache cannot be batched. A quantised array is three arrays, though (words, scales, biases), each
with a place for every token: here each lies in a plain cache of mlx_lm's, which can be merged, extended and cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

# From so many tokens on, attention over numbers that were restored is faster than over the few bits: MLX has a fused
# kernel for the one and not for the other, which also holds every score in memory.
_FEWEST_TO_RESTORE = 32
_NUM_PARTS = 3


@dataclass(frozen=True, slots=True)
class Quantization:
    """How numbers are rounded: `group_size` neighbours share a scale.

    `is_attended`: the model's attention can compute with the few bits; else it is always given the restored numbers.
    """

    bits: int
    group_size: int
    is_attended: bool = True


class QuantizedCache:
    """Every token is rounded by itself as it comes: what a row holds depends neither on how its prompt was cut nor on
    its neighbours. In mlx_lm's place for a `KVCache`; owned by the worker's main thread.
    """

    def __init__(self, form: Quantization, parts: list[Any] | None = None) -> None:
        self._form = form
        # A `KVCache` each, or in a batch a `BatchKVCache`.
        self._parts: list[Any] = parts or [KVCache() for _ in range(_NUM_PARTS)]
        self._gives_bits = False

    @classmethod
    def merge(cls, caches: "list[QuantizedCache]") -> "QuantizedCache":
        """The batch of several rows."""
        parts = [BatchKVCache.merge([cache._parts[place] for cache in caches]) for place in range(_NUM_PARTS)]
        return cls(caches[0]._form, parts)

    def extract(self, index: int) -> "QuantizedCache":
        """One row of a batch, by itself."""
        return QuantizedCache(self._form, [part.extract(index) for part in self._parts])

    def filled(self, arrays: Sequence[mx.array], num_tokens: int) -> "QuantizedCache":
        """A cache of one row, of this form, that holds these `arrays`."""
        other = QuantizedCache(self._form)
        for place, part in enumerate(other._parts):
            part.keys, part.values = arrays[2 * place : 2 * place + 2]
            part.offset = num_tokens
        return other

    @property
    def arrays(self) -> list[mx.array]:
        """What it is made of, each of shape (rows, heads, tokens, any)."""
        return [array for part in self._parts for array in (part.keys, part.values)]

    @property
    def left_padding(self) -> mx.array:
        """Of each row of a batch."""
        return self._parts[0].left_padding

    @property
    def offset(self) -> int | mx.array:
        """Tokens of a row, or of each row of a batch."""
        return self._parts[0].offset

    @property
    def group_size(self) -> int:
        """See `Quantization`."""
        return self._form.group_size

    @property
    def bits(self) -> int:
        """Errors: AttributeError while it gives restored numbers: mlx_lm's attention asks whether this is there."""
        if not self._gives_bits:
            raise AttributeError("bits")
        return self._form.bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Add tokens, in arrays of shape (rows, heads, tokens, dims); gives those of all tokens."""
        rounded = zip(self._quantized(keys), self._quantized(values), strict=True)
        for part, (part_keys, part_values) in zip(self._parts, rounded, strict=True):
            part.update_and_fetch(part_keys, part_values)
            # The same in all; nothing asks the others for theirs, so that it would never be computed.
            part.offset = self.offset
        self._gives_bits = self._form.is_attended and keys.shape[2] < _FEWEST_TO_RESTORE
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, Any]:
        """Those of all tokens: as few bits, in three arrays each, or restored."""
        keys, values = zip(*(part.keys_and_values() for part in self._parts), strict=True)
        return (keys, values) if self._gives_bits else (self._restored(keys), self._restored(values))

    def make_mask(self, *args: Any, **options: Any) -> Any:
        """What tokens to come may look at."""
        return self._parts[0].make_mask(*args, **options)

    def extend(self, other: "QuantizedCache") -> None:
        """Append the rows of another batch."""
        for part, theirs in zip(self._parts, other._parts, strict=True):
            part.extend(theirs)

    def filter(self, batch_indices: mx.array) -> None:
        """Keep some rows of a batch."""
        for part in self._parts:
            part.filter(batch_indices)

    def prepare(self, **padding: Any) -> None:
        """The tokens to come are padded."""
        for part in self._parts:
            part.prepare(**padding)

    def finalize(self) -> None:
        """They have come."""
        for part in self._parts:
            part.finalize()

    def is_trimmable(self) -> bool:
        """Any token can be taken back out."""
        return True

    def trim(self, n: int) -> int:
        """Take the last tokens back out."""
        num_tokens = [part.trim(n) for part in self._parts]
        return num_tokens[0]

    def size(self) -> int:
        """Tokens, the padding of a batch included."""
        return self._parts[0].size()

    @property
    def state(self) -> list[Any]:
        """What has to be computed for it to be up to date."""
        return [part.state for part in self._parts]

    @property
    def nbytes(self) -> int:
        """Memory."""
        return sum(part.nbytes for part in self._parts)

    def _quantized(self, array: mx.array) -> Sequence[mx.array]:
        return mx.quantize(array, group_size=self._form.group_size, bits=self._form.bits)

    def _restored(self, parts: tuple[mx.array, ...]) -> mx.array:
        return mx.dequantize(*parts, group_size=self._form.group_size, bits=self._form.bits)
