"""The rows that decode together: one forward pass gives each its next token.

The KV caches are mlx_lm's. Unlike mlx_lm's own batch, the step computes nothing that no row asked for: no
log-probabilities, no per-row arrays.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import _extend_cache, _merge_caches  # pyright: ignore[reportPrivateUsage]

from app.handler.lm.sampling import BatchSampler, RowSampler

# One model's cache: an mlx_lm cache object per layer.
Cache = list[Any]


@dataclass(slots=True)
class BatchRow:
    """A sequence in the batch; `last_token` is what is fed next, the prompt's last token when it joins."""

    id: int
    cache: Cache
    last_token: int
    sampler: RowSampler


@dataclass(slots=True)
class DecodeBatch:
    """Decodes its rows in step. Owned by the worker's main thread.

    The step is pipelined: while the tokens of one step are read, the next one is being computed.
    """

    model: nn.Module
    rows: list[BatchRow] = field(default_factory=list)
    _joining: list[BatchRow] = field(default_factory=list)
    _cache: Cache = field(default_factory=list)
    _is_merged: bool = False
    _tokens: mx.array | None = None
    _is_first: list[bool] = field(default_factory=list)
    _sampler: BatchSampler | None = None

    def __len__(self) -> int:
        return len(self.rows) + len(self._joining)

    def join(self, row: BatchRow) -> None:
        """Let a prefilled row decode from the next step on."""
        self._joining.append(row)

    def remove(self, ids: set[int]) -> None:
        """Take rows out, before the next step."""
        self._joining = [row for row in self._joining if row.id not in ids]
        keep = [index for index, row in enumerate(self.rows) if row.id not in ids]
        if len(keep) == len(self.rows):
            return
        if not keep:
            self.clear_rows()
            return
        self.rows = [self.rows[index] for index in keep]
        self._is_first = [self._is_first[index] for index in keep]
        indices = mx.array(keep)
        for layer in self._cache:
            layer.filter(indices)
        if self._tokens is not None:
            self._tokens = self._tokens[indices]
        self._sampler = None

    def clear_rows(self) -> None:
        """Drop every row that decodes; those that are about to join stay."""
        self.rows = []
        self._cache = []
        self._is_merged = False
        self._tokens = None
        self._is_first = []
        self._sampler = None

    def step(self) -> list[tuple[int, int]]:
        """Start computing the next tokens and give the (row id, token) pairs of the step before."""
        self._admit()
        tokens, was_first = self._tokens, self._is_first
        if tokens is None:
            return []
        if self._sampler is None:
            self._sampler = BatchSampler([row.sampler for row in self.rows])
        logits = self.model(tokens[:, None], cache=self._cache)[:, -1, :]
        self._tokens = self._sampler(logits, tokens, was_first)
        mx.async_eval(self._tokens)
        self._is_first = [False] * len(self.rows)
        values: list[int] = tokens.tolist()  # type: ignore[assignment]
        return [(row.id, value) for row, value, first in zip(self.rows, values, was_first, strict=True) if not first]

    def _admit(self) -> None:
        if not self._joining:
            return
        for row in self._joining:
            self._add_cache(row.cache)
            row.cache = []
        self.rows += self._joining
        fed = mx.array([row.last_token for row in self._joining], dtype=mx.uint32)
        self._tokens = fed if self._tokens is None else mx.concatenate([self._tokens.astype(mx.uint32), fed])
        self._is_first = self._is_first + [True] * len(self._joining)
        self._joining = []
        self._sampler = None

    def _add_cache(self, cache: Cache) -> None:
        """A lone row keeps its own cache, which is faster; the batched form comes with the second row."""
        if not self._cache:
            self._cache, self._is_merged = cache, False
        elif self._is_merged:
            self._cache = _extend_cache(self._cache, _merge_caches([cache]))
        else:
            self._cache, self._is_merged = _merge_caches([self._cache, cache]), True
