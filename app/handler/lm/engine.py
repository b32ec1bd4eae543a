"""Continuous batching: prompts are prefilled in chunks between the decode steps of the rows that already answer."""

from collections import deque
from dataclasses import dataclass

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from app.core.events import Event, Failed, Finished, FinishReason, PrefillProgress, Started, TextDelta, Usage
from app.core.failures import to_event
from app.errors import InternalError
from app.handler.base import Emit
from app.handler.lm.batch import BatchRow, Cache, DecodeBatch
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.prompt import PreparedGeneration
from app.handler.lm.sampling import RowSampler
from app.text.stops import StopMatcher

# While others decode, a prompt advances by this many tokens between two of their steps.
_SHARED_PREFILL_TOKENS = 64
_STEPS_BETWEEN_CLEARS = 512


@dataclass(slots=True)
class Row:
    """One request in the engine, from its arrival to its last token."""

    id: int
    asked: PreparedGeneration
    detokenizer: Detokenizer
    stops: StopMatcher
    cache: Cache
    num_prefilled: int = 0
    num_generated: int = 0

    @property
    def num_left_to_prefill(self) -> int:
        """All but the prompt's last token, which is fed in the first decode step."""
        return len(self.asked.prompt) - 1 - self.num_prefilled


class Engine:
    """Runs rows on one model. Owned by the worker's main thread."""

    def __init__(self, model: nn.Module, eos_tokens: frozenset[int], prefill_tokens: int, emit: Emit) -> None:
        self._model = model
        self._eos_tokens = eos_tokens
        self._prefill_tokens = prefill_tokens
        self._emit = emit
        self._batch = DecodeBatch(model)
        self._rows: dict[int, Row] = {}
        self._to_prefill: deque[Row] = deque()
        self._prefill_next = False
        self._num_steps = 0

    def add(self, row_id: int, asked: PreparedGeneration, detokenizer: Detokenizer) -> None:
        """Take a request in."""
        row = Row(row_id, asked, detokenizer, StopMatcher(asked.stop), make_prompt_cache(self._model))
        self._rows[row_id] = row
        self._emit(row_id, Started(len(asked.prompt)))
        self._to_prefill.append(row)

    def cancel(self, row_id: int) -> None:
        """Forget a request wherever it is; unknown ids are ignored."""
        if row := self._rows.get(row_id):
            self._drop(row)

    def turn(self) -> bool:
        """One decode step, or one chunk of a prompt when it is its turn; whether any work is left."""
        has_rows = len(self._batch) > 0
        if self._to_prefill and (self._prefill_next or not has_rows):
            self._prefill_next = False
            self._prefill(self._to_prefill[0], _SHARED_PREFILL_TOKENS if has_rows else self._prefill_tokens)
        elif has_rows:
            self._prefill_next = True
            self._decode()
        return bool(self._rows)

    def _prefill(self, row: Row, num_tokens: int) -> None:
        """Bring the next `num_tokens` of the prompt at the head of the line into its cache."""
        try:
            if (count := min(num_tokens, row.num_left_to_prefill)) > 0:
                start = row.num_prefilled
                self._model(mx.array(row.asked.prompt[start : start + count])[None], cache=row.cache)
                mx.eval([layer.state for layer in row.cache])
                row.num_prefilled += count
                self._emit(row.id, PrefillProgress(row.num_prefilled, len(row.asked.prompt)))
        except Exception:
            # A fault of this row's own forward pass: the batch has not been touched.
            logger.exception("prefill of request {} failed", row.id)
            self._end(row, to_event(InternalError()))
            return
        if row.num_left_to_prefill == 0:
            self._to_prefill.popleft()
            sampler = RowSampler(row.asked.sampling, row.asked.prompt)
            self._batch.join(BatchRow(row.id, row.cache, row.asked.prompt[-1], sampler))
            row.cache = []

    def _decode(self) -> None:
        try:
            tokens = self._batch.step()
        except Exception:
            logger.exception("a decode step of {} rows failed", len(self._batch))
            self._fail_decoding()
            return
        for row_id, token in tokens:
            self._take_token(self._rows[row_id], token)
        self._num_steps += 1
        if self._num_steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()

    def _fail_decoding(self) -> None:
        """The step is shared, so its rows fail together; prompts in the line go on."""
        prefilling = {row.id for row in self._to_prefill}
        for row in [row for row in self._rows.values() if row.id not in prefilling]:
            self._end(row, to_event(InternalError()))
        self._batch.clear_rows()

    def _take_token(self, row: Row, token: int) -> None:
        """Turn a token into text, and end the row where it ends."""
        row.num_generated += 1
        is_eos = token in self._eos_tokens
        text = row.stops.push("" if is_eos else row.detokenizer.push(token))
        reason: FinishReason | None = None
        if is_eos or row.stops.matched is not None:
            reason = "stop"
        elif row.num_generated >= row.asked.max_tokens:
            reason = "length"
        if reason is not None and row.stops.matched is None:
            text += row.stops.push(row.detokenizer.finish())
            text += row.stops.finish()
        if text:
            self._emit(row.id, TextDelta(text))
        if reason is not None:
            usage = Usage(len(row.asked.prompt), row.num_generated)
            stop = row.stops.matched
            self._end(row, Finished("stop" if stop is not None else reason, usage, stop))

    def _end(self, row: Row, last: Finished | Failed) -> None:
        event: Event = last
        self._emit(row.id, event)
        self._drop(row)

    def _drop(self, row: Row) -> None:
        del self._rows[row.id]
        self._batch.remove({row.id})
        if row in self._to_prefill:
            self._to_prefill.remove(row)
