"""What the prefix cache keeps for some tokens: their keys and values, and a checkpoint where layers need one."""

from dataclasses import dataclass

import mlx.core as mx

from app.handler.lm.kv.caches import Cache, Span


@dataclass(slots=True)
class Kept:
    """A node's part of the KV cache: `spans[n]` of the n-th layer that can be cut, a checkpoint of the others."""

    spans: list[Span]
    checkpoint: Cache | None
    num_bytes: int

    @classmethod
    def of(cls, spans: list[Span], checkpoint: Cache | None) -> "Kept":
        """Computes the arrays, so that they are held and not the graph that makes them."""
        mx.eval(spans, [layer.state for layer in checkpoint or []])
        size = sum(array.nbytes for span in spans for array in span)
        return cls(spans, checkpoint, size + sum(layer.nbytes for layer in checkpoint or []))

    def cut(self, start: int, stop: int, *, keeps_checkpoint: bool) -> "Kept":
        """The part for the node's tokens `start` to `stop`, as arrays of its own."""
        spans = [tuple(mx.contiguous(array[:, :, start:stop]) for array in span) for span in self.spans]
        return Kept.of(spans, self.checkpoint if keeps_checkpoint else None)

    def start_of(self, size: int) -> "Kept":
        """A view of the first tokens, for a hit that ends inside the node."""
        return Kept([tuple(array[:, :, :size] for array in span) for span in self.spans], None, 0)
