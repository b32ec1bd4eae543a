"""The prompts on their way into the batch, in order of arrival."""

from collections import deque
from dataclasses import dataclass

from loguru import logger
from mlx import nn

from app.handler.lm.caches import BatchCache, can_batch
from app.handler.lm.row import Row


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass did: the rows it moved on, by how many tokens in all, and their cache if they are done."""

    rows: list[Row]
    num_tokens: int = 0
    cache: BatchCache | None = None


class PrefillLine:
    """Prefills the prompts at the head of the line: short ones together in one pass, a long one alone, in chunks.

    Owned by the worker's main thread.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._can_batch = can_batch(model)
        self._line: deque[Row] = deque()
        # The cache of the long prompt at the head, once it has begun.
        self._begun: BatchCache | None = None
        # Rows of a pass that failed: each is tried once more, alone, so that one cannot harm the others.
        self._suspects: set[int] = set()

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, row: Row) -> bool:
        return row in self._line

    @property
    def head(self) -> Row:
        """The row whose turn it is."""
        return self._line[0]

    def add(self, row: Row) -> None:
        """Put a row at the end of the line."""
        self._line.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out, wherever it is in the line."""
        if row in self._line:
            if row is self._line[0]:
                self._begun = None
            self._line.remove(row)
            self._suspects.discard(row.id)

    def advance(self, num_tokens: int) -> Pass:
        """Prefill up to `num_tokens` tokens, padding included, of the head or of several short prompts.

        Errors: whatever the model raises, when the row at the head was alone in the pass; it stays at the head.
        """
        group = self._group(num_tokens)
        cache = self._begun or BatchCache.new(self._model, len(group))
        tokens = [row.next_tokens(num_tokens) for row in group]
        try:
            if any(tokens):
                cache.feed(self._model, tokens)
        except Exception:
            if len(group) == 1:
                raise
            logger.warning("a pass over {} prompts failed; each is tried alone", len(group))
            self._suspects |= {row.id for row in group}
            return Pass([])
        for row, fed in zip(group, tokens, strict=True):
            row.num_prefilled += len(fed)
        num_fed = sum(map(len, tokens))
        if group[0].num_left_to_prefill:
            self._begun = cache
            return Pass(group, num_fed)
        for row in group:
            self.remove(row)
        return Pass(group, num_fed, cache)

    def _group(self, num_tokens: int) -> list[Row]:
        """The head of the line, and who follows it if together they fit into one pass of `num_tokens`, padded."""
        group = [self._line[0]]
        longest = group[0].num_left_to_prefill
        if self._begun is not None or longest > num_tokens or self._stands_alone(group[0]):
            return group
        for row in list(self._line)[1:]:
            longest = max(longest, row.num_left_to_prefill)
            if self._stands_alone(row) or longest * (len(group) + 1) > num_tokens:
                break
            group.append(row)
        return group

    def _stands_alone(self, row: Row) -> bool:
        """Whether a row shares no pass: it is suspect, or a prompt of one token, which has nothing to prefill, or no
        rows of this model can.
        """
        return not self._can_batch or row.id in self._suspects or not row.num_left_to_prefill
