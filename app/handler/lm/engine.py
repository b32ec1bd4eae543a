"""Continuous batching: prompts are prefilled in chunks between the decode steps of the rows that already answer."""

import time

import mlx.core as mx
from loguru import logger
from mlx import nn

from app.core.events import Failed, Finished, PrefillProgress, Started, TextDelta
from app.core.failures import to_event
from app.errors import InternalError
from app.handler.base import Emit
from app.handler.lm.batch import BatchRow, DecodeBatch
from app.handler.lm.caches import can_batch
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.pace import Pace
from app.handler.lm.prefill import PrefillLine
from app.handler.lm.prompt import PreparedGeneration
from app.handler.lm.row import Row
from app.handler.lm.sampling import RowSampler
from app.text.stops import StopMatcher

_STEPS_BETWEEN_CLEARS = 512


class Engine:
    """Runs rows on one model. Owned by the worker's main thread."""

    def __init__(self, model: nn.Module, eos_tokens: frozenset[int], prefill_tokens: int, emit: Emit) -> None:
        self._eos_tokens = eos_tokens
        self._emit = emit
        self._rows: dict[int, Row] = {}
        self._line = PrefillLine(model)
        self._batch = DecodeBatch(model)
        self._pace = Pace(prefill_tokens)
        self._can_batch = can_batch(model)
        self._prefilled_last = False
        self._num_steps = 0

    def add(self, row_id: int, asked: PreparedGeneration, detokenizer: Detokenizer) -> None:
        """Take a request in."""
        row = self._rows[row_id] = Row(row_id, asked, detokenizer, StopMatcher(asked.stop))
        self._emit(row_id, Started(len(asked.prompt)))
        self._line.add(row)

    def cancel(self, row_id: int) -> None:
        """Forget a request wherever it is; unknown ids are ignored."""
        if row := self._rows.pop(row_id, None):
            self._line.remove(row)
            self._batch.remove({row_id})

    def turn(self) -> bool:
        """One decode step, or one prefill pass when it is its turn; whether any work is left."""
        may_prefill = not self._batch or (self._can_batch and not self._prefilled_last)
        if self._line and may_prefill:
            self._prefill()
        elif self._batch:
            self._decode()
        return bool(self._rows)

    def _prefill(self) -> None:
        started = time.perf_counter()
        try:
            done = self._line.advance(self._pace.chunk_tokens(len(self._batch), len(self._line)))
        except Exception:
            # The row's own forward pass: nobody else's cache was in it.
            row = self._line.head
            logger.exception("the prefill of request {} failed", row.id)
            self._line.remove(row)
            self._end(row, to_event(InternalError()))
            return
        self._prefilled_last = True
        for row in done.rows:
            self._emit(row.id, PrefillProgress(row.num_prefilled, len(row.asked.prompt)))
        if done.cache is not None:
            self._batch.join([_batch_row(row) for row in done.rows], done.cache)
        if done.num_tokens:
            self._pace.note_prefill(done.num_tokens, time.perf_counter() - started)

    def _decode(self) -> None:
        started = time.perf_counter()
        try:
            tokens = self._batch.step()
        except Exception:
            logger.exception("a decode step of {} rows failed", len(self._batch))
            self._fail_decoding()
            return
        # The step after a prefill pass waits for nothing and says nothing about a step's time.
        if not self._prefilled_last:
            self._pace.note_step(time.perf_counter() - started)
        self._prefilled_last = False
        self._take(tokens)
        self._num_steps += 1
        if self._num_steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()

    def _take(self, tokens: list[tuple[int, int]]) -> None:
        """Turn a step's tokens into text; the rows that end leave the batch together."""
        ended: set[int] = set()
        for row_id, token in tokens:
            row = self._rows[row_id]
            try:
                text, last = row.take(token, is_eos=token in self._eos_tokens)
            except Exception:
                # The row's own tokenizer: a token that it cannot decode, say.
                logger.exception("the text of request {} could not be decoded", row_id)
                text, last = "", to_event(InternalError())
            if text:
                self._emit(row_id, TextDelta(text))
            if last is not None:
                self._end(row, last)
                ended.add(row_id)
        if ended:
            self._batch.remove(ended)

    def _fail_decoding(self) -> None:
        """The step is shared, so its rows fail together; prompts in the line go on."""
        for row in [row for row in self._rows.values() if row not in self._line]:
            self._end(row, to_event(InternalError()))
        self._batch.clear()

    def _end(self, row: Row, last: Finished | Failed) -> None:
        self._emit(row.id, last)
        del self._rows[row.id]


def _batch_row(row: Row) -> BatchRow:
    return BatchRow(row.id, row.asked.prompt[-1], RowSampler(row.asked.sampling, row.asked.prompt))
