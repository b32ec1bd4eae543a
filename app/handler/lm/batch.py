"""The rows that decode together: one forward pass gives each its next token.

Unlike mlx_lm's own batch, the step computes nothing that no row asked for: no log-probabilities, no per-row arrays.
"""

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from app.handler.lm.caches import BatchCache
from app.handler.lm.sampling import BatchSampler, RowSampler


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A sequence in the batch; `last_token` is the prompt's last, the first to be fed."""

    id: int
    last_token: int
    sampler: RowSampler


class DecodeBatch:
    """Decodes its rows in step. Owned by the worker's main thread.

    The step is pipelined: while the tokens of one step are read, the next one is being computed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.clear()

    def clear(self) -> None:
        """Drop every row."""
        self._rows: list[BatchRow] = []
        self._cache = BatchCache()
        # What is fed next, shape (rows,), and for which rows that is the prompt's last token.
        self._tokens: mx.array | None = None
        self._is_first: list[bool] = []
        self._sampler: BatchSampler | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, rows: list[BatchRow], cache: BatchCache) -> None:
        """Let prefilled rows decode from the next step on; `cache` holds all but their last tokens."""
        self._cache.extend(cache)
        self._rows += rows
        fed = mx.array([row.last_token for row in rows], dtype=mx.uint32)
        self._tokens = fed if self._tokens is None else mx.concatenate([self._tokens, fed])
        self._is_first += [True] * len(rows)
        self._sampler = None

    def remove(self, ids: set[int]) -> None:
        """Take rows out, before the next step; unknown ids are ignored."""
        keep = [index for index, row in enumerate(self._rows) if row.id not in ids]
        if len(keep) == len(self._rows):
            return
        if not keep or self._tokens is None:
            self.clear()
            return
        self._rows = [self._rows[index] for index in keep]
        self._is_first = [self._is_first[index] for index in keep]
        self._cache.filter(keep)
        self._tokens = self._tokens[mx.array(keep)]
        self._sampler = None

    def step(self) -> list[tuple[int, int]]:
        """Start computing the next tokens and give the (row id, token) pairs of the step before."""
        tokens, was_first = self._tokens, self._is_first
        if tokens is None:
            return []
        if self._sampler is None:
            self._sampler = BatchSampler([row.sampler for row in self._rows])
        logits = self._model(tokens[:, None], cache=self._cache.layers)[:, -1, :]
        self._tokens = self._sampler(logits, tokens, was_first).astype(mx.uint32)
        mx.async_eval(self._tokens)
        self._is_first = [False] * len(self._rows)
        values: list[int] = tokens.tolist()  # type: ignore[assignment]
        return [(row.id, value) for row, value, first in zip(self._rows, values, was_first, strict=True) if not first]
