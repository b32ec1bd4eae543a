"""Rows with different LoRA adapters in one forward pass: the base's weights are there once, and used once.

Source of what is computed: https://arxiv.org/abs/2106.09685, in mlx_lm's form (mlx_lm/tuner/lora.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod

import mlx.core as mx
from mlx import nn
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

from app.handler import device


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a layer's adapters each row of a pass has, shape (rows,), and how strong it is, shape (rows, 1, 1)."""

    places: mx.array
    scales: mx.array


class RowAdapters:
    """Tells the layers which adapter each row of the running pass has: a number from 1 on, 0 for none.

    `scales` are the adapters' strengths. Owned by the worker's main thread.
    """

    def __init__(self, scales: Sequence[float] = ()) -> None:
        self._scales = (0.0, *scales)
        self._rows: tuple[int, ...] = ()
        # Tokens of each row of the pass that runs; 0 where none of its rows has an adapter, and between passes.
        self._num_tokens = 0
        # That took part in the last pass with adapters.
        self.num_layers = 0
        # By what `share_of` is asked with, of the rows as they are.
        self._shares: dict[tuple[int, ...], Share | None] = {}

    def run(
        self, model: Callable[..., mx.array], rows: tuple[int, ...], tokens: mx.array, **options: object
    ) -> mx.array:
        """What the model gives for `tokens`, shape (rows, tokens), each row with its adapter."""
        if not any(rows):
            return model(tokens, **options)
        if rows != self._rows:
            self._rows, self._shares = rows, {}
        self._num_tokens = tokens.shape[1]
        self.num_layers = 0
        try:
            return model(tokens, **options)
        finally:
            self._num_tokens = 0

    def share_of(self, places: tuple[int, ...]) -> Share | None:
        """What a layer has to do with the pass that runs, None for nothing; `places[n]` is where it keeps adapter n."""
        if not self._num_tokens:
            return None
        self.num_layers += 1
        if places not in self._shares:
            self._shares[places] = self._new_share([places[adapter] for adapter in self._rows])
        return self._shares[places]

    @property
    def is_running(self) -> bool:
        """Whether a pass runs with any adapters."""
        return self._num_tokens > 0

    @property
    def num_rows(self) -> int:
        """Rows of that pass."""
        return len(self._rows)

    def tokens_per_row(self, shape: Sequence[int]) -> int:
        """How many tokens each row has in an array of some numbers for each token.

        Errors: ValueError where they are not in the order of the rows.
        """
        num_tokens = prod(shape[:-1])
        if shape[0] != self.num_rows and num_tokens != self.num_rows * self._num_tokens:
            raise ValueError("the model mixes the rows of a pass before an adapter's layer")
        return num_tokens // self.num_rows

    def _new_share(self, of_rows: list[int]) -> Share | None:
        if not any(of_rows):
            return None
        scales = [self._scales[adapter] for adapter in self._rows]
        return Share(mx.array(of_rows, dtype=mx.uint32), mx.array(scales)[:, None, None])


LoRALayer = LoRALinear | LoRASwitchLinear


class AdaptedLayer(nn.Module):
    """A layer, `linear`, and what several adapters add to it.

    `adapters[n]` is the layer as the n-th adapter has it, None where that leaves it alone. They lie in one array each
    for all, padded to the largest rank, with nothing but zeros first, for rows without any.
    """

    def __init__(self, adapters: Sequence[LoRALayer | None], rows: RowAdapters) -> None:
        super().__init__()
        known = [one for one in adapters if one is not None]
        self.linear: Callable[..., mx.array] = known[0].linear
        self.lora_a = _stacked([one.lora_a for one in known])
        self.lora_b = _stacked([one.lora_b for one in known])
        mx.eval(self.lora_a, self.lora_b)
        place = count(1)
        self._places = (0, *(0 if one is None else next(place) for one in adapters))
        self._rows = rows


class AdaptedLinear(AdaptedLayer):
    """`LoRALinear` for rows with different adapters."""

    def __call__(self, x: mx.array) -> mx.array:
        """The base layer's output and, by row, its adapter's."""
        y = self.linear(x)
        share = self._rows.share_of(self._places)
        if share is None:
            return y
        by_row = x.reshape(self._rows.num_rows, self._rows.tokens_per_row(x.shape), x.shape[-1])
        z = mx.gather_mm(by_row, self.lora_a, rhs_indices=share.places)
        z = mx.gather_mm(z, self.lora_b, rhs_indices=share.places)
        return y + (share.scales.astype(z.dtype) * z).astype(x.dtype).reshape(y.shape)


def _stacked(matrices: list[mx.array]) -> mx.array:
    """The matrices after one of zeros, each filled up with zeros to the size of the largest."""
    shape = [max(sizes) for sizes in zip(*(one.shape for one in matrices), strict=True)]
    padded = [mx.pad(one, [(0, most - size) for size, most in zip(one.shape, shape, strict=True)]) for one in matrices]
    stack = mx.stack([mx.zeros_like(padded[0]), *padded])
    # MLX's CPU back end gathers matrices of no other type.
    return stack.astype(mx.float32) if device.is_cpu() else stack
