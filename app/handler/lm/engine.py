"""Continuous batching: prompts are prefilled in chunks between the decode steps of the rows that already answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from loguru import logger
from mlx import nn

from app.core.events import ChoiceEnded, Failed, Finished, PrefillProgress, Started, Usage
from app.core.failures import to_event
from app.errors import InternalError
from app.handler.base import Emit
from app.handler.lm.batch import BatchRow, DecodeBatch, StepToken
from app.handler.lm.caches import BatchCache, can_batch
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.pace import Pace
from app.handler.lm.prefill import PrefillLine
from app.handler.lm.prefix_cache import PrefixCache
from app.handler.lm.prompt import PreparedGeneration
from app.handler.lm.row import Prompt, Row
from app.handler.lm.sampling import RowSampler
from app.text.stops import StopMatcher

_STEPS_BETWEEN_CLEARS = 512


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What the engine needs to know of its model."""

    model: nn.Module
    eos_tokens: frozenset[int]
    new_detokenizer: Callable[[], Detokenizer]


class Engine:
    """Runs requests on one model. Owned by the worker's main thread."""

    def __init__(self, model: EngineModel, prefixes: PrefixCache, prefill_tokens: int, emit: Emit) -> None:
        self._model = model
        self._prefixes = prefixes
        self._emit = emit
        self._prompts: dict[int, Prompt] = {}
        self._rows: dict[int, Row] = {}
        self._num_rows = 0
        self._line = PrefillLine(model.model, prefixes)
        self._batch = DecodeBatch(model.model, model.eos_tokens)
        self._pace = Pace(prefill_tokens)
        self._can_batch = can_batch(model.model)
        self._prefilled_last = False
        self._num_steps = 0

    def add(self, request_id: int, asked: PreparedGeneration) -> None:
        """Take a request in."""
        rows = [self._new_row(request_id, choice, asked) for choice in range(asked.num_choices)]
        prompt = self._prompts[request_id] = Prompt(request_id, asked, rows)
        self._line.add(prompt)

    def cancel(self, request_id: int) -> None:
        """Forget a request wherever it is; unknown ids are ignored. What it has computed is kept."""
        if prompt := self._prompts.pop(request_id, None):
            self._line.remove(prompt)
            self._leave(prompt.rows)

    def turn(self) -> bool:
        """One decode step, or one prefill pass when it is its turn; whether any work is left."""
        may_prefill = not self._batch or (self._can_batch and not self._prefilled_last)
        if self._line and may_prefill:
            self._prefill()
        elif self._batch:
            self._decode()
        return bool(self._prompts)

    def _new_row(self, request_id: int, choice: int, asked: PreparedGeneration) -> Row:
        self._num_rows += 1
        return Row(self._num_rows, request_id, choice, asked, self._model.new_detokenizer(), StopMatcher(asked.stop))

    def _prefill(self) -> None:
        started = time.perf_counter()
        try:
            done = self._line.advance(self._pace.chunk_tokens(len(self._batch), len(self._line)))
        except Exception:
            # The prompt's own forward pass: nobody else's cache was in it.
            prompt = self._line.head
            logger.exception("the prefill of request {} failed", prompt.request_id)
            self._line.drop(prompt)
            self._fail(prompt.request_id)
            return
        self._prefilled_last = True
        for prompt in done.prompts:
            self._tell_progress(prompt)
        if done.cache is not None:
            self._join(done.prompts, done.cache)
        if done.num_tokens:
            self._pace.note_prefill(done.num_tokens, time.perf_counter() - started)

    def _join(self, prompts: list[Prompt], cache: BatchCache) -> None:
        """Let the choices of prefilled prompts decode."""
        rows = [row for prompt in prompts for row in prompt.rows]
        self._rows.update((row.id, row) for row in rows)
        try:
            cache.repeat([prompt.asked.num_choices for prompt in prompts])
            self._batch.join(list(map(_batch_row, rows)), cache)
        except Exception:
            # Half merged, the cache of those who were there is worth no more than that of the newcomers.
            logger.exception("{} rows could not join the batch", len(rows))
            self._fail_decoding()

    def _tell_progress(self, prompt: Prompt) -> None:
        total = len(prompt.asked.prompt)
        if not prompt.is_started:
            prompt.is_started = True
            self._emit(prompt.request_id, Started(total, prompt.num_cached))
        self._emit(prompt.request_id, PrefillProgress(prompt.num_prefilled, total))

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

    def _take(self, tokens: list[StepToken]) -> None:
        """Turn a step's tokens into text; the rows that end leave the batch together."""
        ended: list[Row] = []
        failed: set[int] = set()
        for given in tokens:
            row = self._rows[given.row_id]
            try:
                if self._take_token(row, given):
                    ended.append(row)
            except Exception:
                # The row's own: its grammar, or a token that its tokenizer cannot decode.
                logger.exception("a token of request {} could not be taken", row.request_id)
                failed.add(row.request_id)
        self._leave(ended)
        for row in ended:
            self._finish_choice(row)
        for request_id in failed:
            self._fail(request_id)

    def _take_token(self, row: Row, given: StepToken) -> bool:
        if given.token is None:
            raise ValueError("the grammar failed")
        events = row.take(given.token, given.logprobs, is_eos=given.token in self._model.eos_tokens)
        for event in events:
            self._emit(row.request_id, event)
        return bool(events) and isinstance(events[-1], ChoiceEnded)

    def _finish_choice(self, row: Row) -> None:
        prompt = self._prompts.get(row.request_id)
        if prompt is not None and not any(other.id in self._rows for other in prompt.rows):
            count = sum(len(other.generated) for other in prompt.rows)
            self._emit(row.request_id, Finished(Usage(len(prompt.asked.prompt), count, prompt.num_cached)))
            del self._prompts[row.request_id]

    def _leave(self, rows: list[Row]) -> None:
        """Take rows out of the batch and keep what they have computed."""
        decoding = [row for row in rows if self._rows.pop(row.id, None)]
        for row in decoding:
            if (cache := self._batch.cache_of(row.id)) is not None:
                self._prefixes.store(row.asked.cache_namespace, row.asked.prompt + row.generated, cache)
        if decoding:
            self._batch.remove({row.id for row in decoding})

    def _fail_decoding(self) -> None:
        """The step is shared, so its rows fail together; prompts in the line go on."""
        self._batch.clear()
        for request_id in {row.request_id for row in self._rows.values()}:
            self._fail(request_id)

    def _fail(self, request_id: int) -> None:
        """End a request with an error; its rows' caches are not trusted."""
        if prompt := self._prompts.pop(request_id, None):
            ids = {row.id for row in prompt.rows if self._rows.pop(row.id, None)}
            self._batch.remove(ids)
            failed: Failed = to_event(InternalError())
            self._emit(request_id, failed)


def _batch_row(row: Row) -> BatchRow:
    asked = row.asked
    grammar = asked.grammar.copy() if asked.grammar is not None else None
    return BatchRow(
        row.id, asked.prompt[-1], RowSampler(asked.sampling, asked.prompt, row.choice), asked.top_logprobs, grammar
    )
