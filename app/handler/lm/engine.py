"""Continuous batching: prompts are prefilled in chunks, each in one pass with the rows that already answer.

Where a model or a request does not allow that, chunks have passes of their own, between the steps of those rows.
"""

import time
from collections.abc import Callable
from functools import partial

import mlx.core as mx
from loguru import logger

from app.handler.base import Emit
from app.handler.lm.answering import Answering
from app.handler.lm.batch import DecodeBatch
from app.handler.lm.batch_row import BatchRow, StepToken
from app.handler.lm.chunk import Chunk, Pass, PromptFailedError
from app.handler.lm.engine_model import EngineLimits, EngineModel
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.kv.kv_budget import KvBudget
from app.handler.lm.mixed_pass import Fed, MixedPass
from app.handler.lm.pace import Pace
from app.handler.lm.prefill import PrefillLine
from app.handler.lm.prefixes.prefix_cache import PrefixCache
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.row import Prompt, Row

_STEPS_BETWEEN_CLEARS = 512
# After so many mixed passes that failed, none of which went well between them, it is not this or that prompt.
_MOST_FAILED_MIXTURES = 3
# A row starts only where it has room for so many tokens of an answer.
_ROOM_TO_START = 64


class Engine:
    """Runs requests on one model. Owned by the worker's main thread."""

    def __init__(self, parts: EngineModel, limits: EngineLimits, prefixes: PrefixCache, emit: Emit) -> None:
        self._prefixes = prefixes
        self._budget = KvBudget.of(parts.form, limits.max_kv_bytes)
        self._answering = Answering(parts.eos_tokens, parts.new_detokenizer, emit)
        # The rows in the batch, the oldest first.
        self._rows: dict[int, Row] = {}
        self._line = PrefillLine(parts, prefixes, limits.max_pairs)
        self._batch = DecodeBatch(parts.form.model, parts.eos_tokens, parts.drafter, parts.adapters)
        self._pace = Pace(limits.prefill_tokens)
        self._can_batch = parts.form.can_batch
        self._mixed = parts.mixed
        # One after the other.
        self._num_failed_mixtures = 0
        self._owes_step = False
        # Whether the step before has long been computed: there was a pass, or a look, or it was waited for.
        self._has_caught_up = False
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
        self._line.add(self._answering.add(request_id, asked))

    def cancel(self, request_id: int) -> None:
        """Forget a request wherever it is; unknown ids are ignored. What it has computed is kept."""
        if rows := self._answering.remove(request_id):
            for prompt in self._prompts_of(request_id):
                self._line.remove(prompt)
            self._leave(rows)

    def turn(self) -> bool:
        """A decode step, a prefill pass, or both in one; whether any work is left."""
        if not (self._line and self._may_prefill() and self._advance()) and self._batch:
            self._decode()
        return len(self._answering) > 0

    def _may_prefill(self) -> bool:
        """Whether the rows that decode, if there are any, let a pass go first."""
        num_rows = len(self._batch)
        is_known = self._pace.knows_step(num_rows) or len(self._line) > num_rows
        return not num_rows or (self._can_batch and not self._owes_step and is_known)

    def _advance(self) -> bool:
        """Feed the next chunk of the prompts that wait; whether there was any that could start."""
        try:
            num_tokens = self._pace.chunk_tokens(len(self._batch), len(self._line), is_mixed=self._mixed is not None)
            chunk = self._line.choose(num_tokens, self._may_start, self._may_lead)
            if chunk is None or not chunk.prompts:
                self._has_caught_up |= chunk is None
                return False
            if self._mixed is not None and chunk.is_plain and self._batch.is_plain:
                self._step_beside(chunk, self._mixed)
            else:
                self._prefill(chunk)
        except PromptFailedError as failed:
            request_id = failed.prompt.request_id
            logger.opt(exception=failed.error).error("the prefill of request {} failed", request_id)
            self._line.drop(failed.prompt)
            self._fail(request_id, failed.error)
        return True

    def _prefill(self, chunk: Chunk) -> None:
        """Feed a chunk in a pass of its own."""
        started = time.perf_counter()
        waits_for_step = len(self._batch) > 0
        if (done := self._line.feed(chunk)) is None:
            return
        self._has_caught_up = True
        if chunk.num_tokens:
            self._pace.note_prefill(chunk.cost, time.perf_counter() - started, waited_for_step=waits_for_step)
        self._tell_progress(done)
        if done.cache is not None and self._join(done.prompts, done.cache) and done.logits is not None:
            self._decode(_by_row(done.prompts, done.logits))
            return
        # In a burst of short prompts, a step for the few that are through would hold up the many that are not.
        self._owes_step = done.cache is None or len(self._line) <= len(self._batch)

    def _step_beside(self, chunk: Chunk, mixed: MixedPass) -> None:
        """Feed a chunk in one pass with the rows' newest tokens."""
        started = time.perf_counter()
        fed = [Fed(prompt.cache, own, chunk.leads) for prompt, own in zip(chunk.prompts, chunk.tokens, strict=True)]
        num_rows = len(self._batch)
        try:
            logits = self._batch.forward_beside(mixed, fed)
            done = self._line.fed(chunk, logits[num_rows:])
        except Exception:
            # Whose fault it was is found out in passes of their own, from caches that are whole.
            logger.exception("a pass over {} prompts and {} rows failed", len(fed), num_rows)
            self._num_failed_mixtures += 1
            self._mixed = mixed if self._num_failed_mixtures < _MOST_FAILED_MIXTURES else None
            self._line.doubt(chunk.prompts)
            self._start_again()
            return
        self._num_failed_mixtures = 0
        self._pace.note_mixed(chunk.cost, time.perf_counter() - started)
        self._has_caught_up = True
        self._tell_progress(done)
        if done.cache is None or done.logits is None:
            self._decode(logits[:num_rows])
            if done.cache is not None:
                self._join(done.prompts, done.cache)
        elif self._join(done.prompts, done.cache):
            self._decode(mx.concatenate([logits[:num_rows], _by_row(done.prompts, done.logits)]))

    def _tell_progress(self, done: Pass) -> None:
        for place, prompt in enumerate(done.prompts):
            self._answering.tell_progress(prompt, done.logprobs[place] if done.logprobs else [])

    def _may_start(self, prompt: Prompt) -> bool:
        """Whether the prompt's rows fit into memory beside those that run and those that have begun."""
        begun = [other for other in self._line if other.has_begun and other is not prompt]
        num_rows = len(self._batch) + sum(len(other.rows) for other in begun) + len(prompt.rows)
        longest = max(self._batch.num_tokens, len(prompt.tokens), *(len(other.tokens) for other in begun), 0)
        is_alone = num_rows == len(prompt.rows)
        return is_alone or self._budget.fits(num_rows, longest + _ROOM_TO_START)

    def _may_lead(self, prompt: Prompt) -> bool:
        """Whether the prompt's rows can go on right after its last pass: who joins rows that were not in it waits for
        the next step.
        """
        return not self._batch or (self._mixed is not None and self._batch.is_plain and prompt.is_plain)

    def _join(self, prompts: list[Prompt], cache: BatchCache) -> bool:
        """Let the rows of prefilled prompts decode; whether they could."""
        joining = [(prompt, row) for prompt in prompts for row in prompt.rows]
        self._rows.update((row.id, row) for _, row in joining)
        try:
            cache.repeat([len(prompt.rows) for prompt in prompts])
            self._batch.join([_batch_row(prompt, row) for prompt, row in joining], cache)
        except Exception as error:
            # Half merged, the cache of those who were there is worth no more than that of the newcomers.
            logger.exception("{} rows could not join the batch", len(joining))
            self._fail_decoding(error)
            return False
        silent = [row for _, row in joining if row.asked.max_tokens == 0]
        self._leave(silent)
        for row in silent:
            self._answering.end(row)
        return True

    def _decode(self, logits: mx.array | None = None) -> None:
        """A decode step.

        Of `logits` the forward pass has been, and was waited for. The tokens that are drawn from them are told at once,
        and so are newcomers' first ones.
        """
        started = time.perf_counter()
        tells_newest = logits is not None or self._batch.has_newcomers
        if not self._tell(partial(self._batch.step, logits)):
            return
        if logits is None:
            seconds = time.perf_counter() - started
            if self._has_caught_up:
                self._pace.note_start(seconds)
            else:
                self._pace.note_step(seconds, len(self._batch))
        self._has_caught_up = tells_newest
        if tells_newest and not self._tell(self._batch.catch_up):
            return
        self._owes_step = False
        self._make_room()
        self._num_steps += 1
        if self._num_steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()

    def _tell(self, step: Callable[[], list[StepToken]]) -> bool:
        """Do something that gives rows tokens, and tell them; whether it could be done."""
        try:
            tokens = step()
        except Exception as error:
            logger.exception("a decode step of {} rows failed", len(self._batch))
            self._fail_decoding(error)
            return False
        self._take(tokens)
        return True

    def _take(self, tokens: list[StepToken]) -> None:
        """Turn tokens into text; the rows that end leave the batch together."""
        ended: list[Row] = []
        failed: dict[int, Exception] = {}
        for given in tokens:
            row = self._rows[given.row_id]
            if row in ended:
                # Guessed right, and too far.
                continue
            try:
                if self._answering.take(row, given):
                    ended.append(row)
            except Exception as error:
                # The row's own: its grammar, or a token that its tokenizer cannot decode.
                logger.exception("a token of request {} could not be taken", row.request_id)
                failed[row.request_id] = error
        self._leave(ended)
        for row in ended:
            self._answering.finish(row)
        for request_id, error in failed.items():
            self._fail(request_id, error)

    def _leave(self, rows: list[Row]) -> None:
        """Take rows out of the batch and keep what they have computed."""
        decoding = [row for row in rows if self._rows.pop(row.id, None)]
        for row in decoding:
            if (cache := self._batch.cache_of(row.id)) is not None:
                fed = _tokens_of(row)[: -1 if self._batch.has_told_newest(row.id) else None]
                tokens = row.asked.keys(fed)
                self._prefixes.store(row.asked.cache_namespace, tokens, cache)
        if decoding:
            self._batch.remove({row.id for row in decoding})

    def _make_room(self) -> None:
        """When the rows outgrow their memory, the youngest goes back to the line, to go on later where it was."""
        while len(self._rows) > 1 and not self._budget.fits(len(self._batch), self._batch.num_tokens):
            row = self._rows[next(reversed(self._rows))]
            logger.info("request {} waits for memory after {} tokens", row.request_id, len(row.generated))
            prompt = self._back(row)
            self._leave([row])
            self._line.add(prompt)

    def _start_again(self) -> None:
        """Send every row back to the line, with its tokens and without its cache."""
        for row in self._rows.values():
            self._line.add(self._back(row))
        self._rows.clear()
        self._batch.clear()

    def _fail_decoding(self, error: Exception) -> None:
        """The step is shared, so its rows fail together; prompts in the line go on."""
        self._batch.clear()
        for request_id in {row.request_id for row in self._rows.values()}:
            self._fail(request_id, error)

    def _fail(self, request_id: int, error: Exception) -> None:
        """End a request with an error; its rows' caches are not trusted."""
        if rows := self._answering.fail(request_id, error):
            for prompt in self._prompts_of(request_id):
                self._line.drop(prompt)
            self._batch.remove({row.id for row in rows if self._rows.pop(row.id, None)})

    def _back(self, row: Row) -> Prompt:
        """What a row goes on from that is to leave the batch."""
        is_told = self._batch.has_told_newest(row.id)
        return Prompt(row.request_id, row.asked, [row], _tokens_of(row), is_back=True, is_told=is_told)

    def _prompts_of(self, request_id: int) -> list[Prompt]:
        return [prompt for prompt in self._line if prompt.request_id == request_id]


def _tokens_of(row: Row) -> list[int]:
    return row.asked.prompt + row.generated


def _by_row(prompts: list[Prompt], logits: mx.array) -> mx.array:
    """What comes after each prompt, shape (prompts, 1, vocabulary), for each of its rows."""
    return logits[mx.array([place for place, prompt in enumerate(prompts) for _ in prompt.rows])]


def _batch_row(prompt: Prompt, row: Row) -> BatchRow:
    return BatchRow(
        id=row.id,
        last_token=prompt.tokens[-1],
        sampler=row.sampler,
        top_logprobs=row.asked.top_logprobs,
        guide=row.guide,
        history=lambda: _tokens_of(row),
        position_shift=0 if row.asked.pictures is None else row.asked.pictures.position_shift,
        adapter=row.asked.adapter,
        is_told=prompt.is_told,
    )
