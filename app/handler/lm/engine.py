"""Continuous batching: prompts are prefilled in chunks between the decode steps of the rows that already answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
from loguru import logger

from app.core.events import ChoiceEnded, Finished, PrefillProgress, Started, Usage
from app.core.failures import of_exception, to_event
from app.handler.base import Emit
from app.handler.lm.answer import Answer
from app.handler.lm.batch import BatchRow, DecodeBatch, StepToken
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.drafting import Drafter
from app.handler.lm.echo import echo_start, echo_tokens
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.kv.kv_budget import KvBudget
from app.handler.lm.pace import Pace
from app.handler.lm.prefill import PrefillLine
from app.handler.lm.prefixes.prefix_cache import PrefixCache
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.row import Prompt, Request, Row
from app.handler.lm.row_adapters import RowAdapters
from app.handler.lm.sampling.sampling import RowSampler

_STEPS_BETWEEN_CLEARS = 512
# A row starts only where it has room for so many tokens of an answer.
_ROOM_TO_START = 64
# As far back as a character may have begun that is not complete, and whatever else a detokenizer looks at.
_TOKENS_TO_CONTINUE_FROM = 8


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What the engine needs to know of its model, which `form` has."""

    form: CacheForm
    eos_tokens: frozenset[int]
    new_detokenizer: Callable[[], Detokenizer]
    drafter: Drafter | None = None
    adapters: RowAdapters = field(default_factory=RowAdapters)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The most tokens of a prefill pass, and pairs of a token and one it sees; memory for KV caches of what runs."""

    prefill_tokens: int
    max_kv_bytes: int
    max_pairs: int | None = None


class Engine:
    """Runs requests on one model. Owned by the worker's main thread."""

    def __init__(self, parts: EngineModel, limits: EngineLimits, prefixes: PrefixCache, emit: Emit) -> None:
        self._parts = parts
        self._prefixes = prefixes
        self._budget = KvBudget.of(parts.form, limits.max_kv_bytes)
        self._emit = emit
        self._requests: dict[int, Request] = {}
        # The rows in the batch, the oldest first.
        self._rows: dict[int, Row] = {}
        self._num_rows = 0
        self._line = PrefillLine(parts.form, prefixes, parts.adapters, limits.max_pairs)
        self._batch = DecodeBatch(parts.form.model, parts.eos_tokens, parts.drafter, parts.adapters)
        self._pace = Pace(limits.prefill_tokens)
        self._can_batch = parts.form.can_batch
        self._owes_step = False
        self._prefilled_last = False
        self._num_steps = 0

    @property
    def longest_row(self) -> int:
        """Tokens of prompt and answer that fit into the memory for KV caches."""
        return self._budget.longest_row

    @property
    def max_kv_bytes(self) -> int:
        """Memory that the KV caches of what runs may take."""
        return self._budget.max_bytes

    @property
    def kv_bytes(self) -> int:
        """Memory that they take now."""
        return self._batch.cache_bytes + self._line.cache_bytes

    def add(self, request_id: int, asked: PreparedGeneration) -> None:
        """Take a request in."""
        rows = [self._new_row(request_id, choice, asked) for choice in range(asked.num_choices)]
        prompt = Prompt(request_id, asked, rows, asked.prompt)
        self._requests[request_id] = Request(asked, rows)
        self._line.add(prompt)

    def cancel(self, request_id: int) -> None:
        """Forget a request wherever it is; unknown ids are ignored. What it has computed is kept."""
        if request := self._requests.pop(request_id, None):
            for prompt in [prompt for prompt in self._line if prompt.request_id == request_id]:
                self._line.remove(prompt)
            self._leave(request.rows)

    def turn(self) -> bool:
        """One decode step, or one prefill pass when it is its turn; whether any work is left."""
        may_prefill = not self._batch or (self._can_batch and not self._owes_step)
        if not (self._line and may_prefill and self._prefill()) and self._batch:
            self._decode()
        return bool(self._requests)

    def _new_row(self, request_id: int, choice: int, asked: PreparedGeneration) -> Row:
        self._num_rows += 1
        detokenizer = self._parts.new_detokenizer()
        if asked.continues_text:
            for token in asked.prompt[-_TOKENS_TO_CONTINUE_FROM:]:
                detokenizer.push(token)
        return Row(
            id=self._num_rows,
            request_id=request_id,
            choice=choice,
            asked=asked,
            detokenizer=detokenizer,
            answer=Answer(choice, asked.stop, asked.reading, has_logprobs=asked.top_logprobs is not None),
            sampler=RowSampler(asked.sampling, asked.prompt, choice, detokenizer.bytes_of),
            guide=asked.guide.copy() if asked.guide is not None else None,
        )

    def _prefill(self) -> bool:
        """Run a prefill pass; whether there was anything that could start."""
        started = time.perf_counter()
        waits_for_step = len(self._batch) > 0
        num_tokens = self._pace.chunk_tokens(len(self._batch), len(self._line))
        try:
            done = self._line.advance(num_tokens, self._may_start)
        except Exception as error:
            # The prompt's own forward pass: nobody else's cache was in it.
            prompt = self._line.in_pass
            logger.exception("the prefill of request {} failed", prompt.request_id)
            self._line.drop(prompt)
            self._fail(prompt.request_id, error)
            return True
        if not done.prompts:
            self._prefilled_last |= done.has_looked
            return False
        self._prefilled_last = True
        for prompt, logprobs in zip(done.prompts, done.logprobs, strict=True):
            self._tell_progress(prompt)
            for event in echo_tokens(prompt, logprobs):
                self._emit(prompt.request_id, event)
        if done.cache is not None:
            self._join(done.prompts, done.cache)
        # In a burst of short prompts, a step for the few that are through would hold up the many that are not.
        self._owes_step = done.cache is None or len(self._line) <= len(self._batch)
        if done.num_tokens:
            seconds = time.perf_counter() - started
            self._pace.note_prefill(done.num_tokens, seconds, waited_for_step=waits_for_step)
        return True

    def _may_start(self, prompt: Prompt) -> bool:
        """Whether the prompt's rows fit into memory beside those that run and those that have begun."""
        begun = [other for other in self._line if other.has_begun and other is not prompt]
        num_rows = len(self._batch) + sum(len(other.rows) for other in begun) + len(prompt.rows)
        longest = max(self._batch.num_tokens, len(prompt.tokens), *(len(other.tokens) for other in begun), 0)
        is_alone = num_rows == len(prompt.rows)
        return is_alone or self._budget.fits(num_rows, longest + _ROOM_TO_START)

    def _join(self, prompts: list[Prompt], cache: BatchCache) -> None:
        """Let the rows of prefilled prompts decode."""
        joining = [(prompt, row) for prompt in prompts for row in prompt.rows]
        self._rows.update((row.id, row) for _, row in joining)
        try:
            cache.repeat([len(prompt.rows) for prompt in prompts])
            self._batch.join([_batch_row(prompt, row) for prompt, row in joining], cache)
        except Exception as error:
            # Half merged, the cache of those who were there is worth no more than that of the newcomers.
            logger.exception("{} rows could not join the batch", len(joining))
            self._fail_decoding(error)
            return
        self._end([row for _, row in joining if row.asked.max_tokens == 0])

    def _end(self, rows: list[Row]) -> None:
        """End rows that are to say nothing."""
        self._leave(rows)
        for row in rows:
            self._emit(row.request_id, ChoiceEnded("length", row.choice))
            self._finish_choice(row)

    def _tell_progress(self, prompt: Prompt) -> None:
        request = self._requests[prompt.request_id]
        if request.num_cached is None:
            request.num_cached = prompt.num_cached
            self._emit(prompt.request_id, Started(len(prompt.tokens), prompt.num_cached))
            for event in echo_start(prompt):
                self._emit(prompt.request_id, event)
        if not prompt.is_back:
            self._emit(prompt.request_id, PrefillProgress(prompt.num_prefilled, len(prompt.tokens)))

    def _decode(self) -> None:
        started = time.perf_counter()
        try:
            tokens = self._batch.step()
        except Exception as error:
            logger.exception("a decode step of {} rows failed", len(self._batch))
            self._fail_decoding(error)
            return
        # After a pass, or a look, the step before has long been computed.
        note = self._pace.note_start if self._prefilled_last else self._pace.note_step
        note(time.perf_counter() - started)
        self._prefilled_last = self._owes_step = False
        self._take(tokens)
        self._make_room()
        self._num_steps += 1
        if self._num_steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()

    def _take(self, tokens: list[StepToken]) -> None:
        """Turn a step's tokens into text; the rows that end leave the batch together."""
        ended: list[Row] = []
        failed: dict[int, Exception] = {}
        for given in tokens:
            row = self._rows[given.row_id]
            if row in ended:
                # Guessed right, and too far.
                continue
            try:
                if self._take_token(row, given):
                    ended.append(row)
            except Exception as error:
                # The row's own: its grammar, or a token that its tokenizer cannot decode.
                logger.exception("a token of request {} could not be taken", row.request_id)
                failed[row.request_id] = error
        self._leave(ended)
        for row in ended:
            self._finish_choice(row)
        for request_id, error in failed.items():
            self._fail(request_id, error)

    def _take_token(self, row: Row, given: StepToken) -> bool:
        if given.token is None:
            raise ValueError("the grammar failed")
        events = row.take(given.token, given.logprobs, is_eos=given.token in self._parts.eos_tokens)
        for event in events:
            self._emit(row.request_id, event)
        return bool(events) and isinstance(events[-1], ChoiceEnded)

    def _finish_choice(self, row: Row) -> None:
        row.has_ended = True
        request = self._requests.get(row.request_id)
        if request is not None and all(other.has_ended for other in request.rows):
            count = sum(len(other.generated) for other in request.rows)
            num_reasoning = sum(other.num_reasoning for other in request.rows)
            usage = Usage(len(request.asked.prompt), count, request.num_cached or 0, num_reasoning)
            self._emit(row.request_id, Finished(usage))
            del self._requests[row.request_id]

    def _leave(self, rows: list[Row]) -> None:
        """Take rows out of the batch and keep what they have computed."""
        decoding = [row for row in rows if self._rows.pop(row.id, None)]
        for row in decoding:
            if (cache := self._batch.cache_of(row.id)) is not None:
                tokens = row.asked.keys(row.asked.prompt + row.generated)
                self._prefixes.store(row.asked.cache_namespace, tokens, cache)
        if decoding:
            self._batch.remove({row.id for row in decoding})

    def _make_room(self) -> None:
        """When the rows outgrow their memory, the youngest goes back to the line, to go on later where it was."""
        while len(self._rows) > 1 and not self._budget.fits(len(self._batch), self._batch.num_tokens):
            row = self._rows[next(reversed(self._rows))]
            logger.info("request {} waits for memory after {} tokens", row.request_id, len(row.generated))
            self._leave([row])
            tokens = row.asked.prompt + row.generated
            self._line.add(Prompt(row.request_id, row.asked, [row], tokens, is_back=True))

    def _fail_decoding(self, error: Exception) -> None:
        """The step is shared, so its rows fail together; prompts in the line go on."""
        self._batch.clear()
        for request_id in {row.request_id for row in self._rows.values()}:
            self._fail(request_id, error)

    def _fail(self, request_id: int, error: Exception) -> None:
        """End a request with an error; its rows' caches are not trusted."""
        if request := self._requests.pop(request_id, None):
            for prompt in [prompt for prompt in self._line if prompt.request_id == request_id]:
                self._line.drop(prompt)
            self._batch.remove({row.id for row in request.rows if self._rows.pop(row.id, None)})
            self._emit(request_id, to_event(of_exception(error)))


def _batch_row(prompt: Prompt, row: Row) -> BatchRow:
    return BatchRow(
        id=row.id,
        last_token=prompt.tokens[-1],
        sampler=row.sampler,
        top_logprobs=row.asked.top_logprobs,
        guide=row.guide,
        history=lambda: row.asked.prompt + row.generated,
        position_shift=0 if row.asked.pictures is None else row.asked.pictures.position_shift,
        adapter=row.asked.adapter,
    )
