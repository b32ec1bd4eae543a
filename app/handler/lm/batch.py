"""The rows that decode together: one forward pass gives each its next token.

Unlike mlx_lm's own batch, the step computes nothing that no row asked for: no log-probabilities, no per-row arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from loguru import logger
from mlx import nn

from app.handler.lm.caches import BatchCache, RowCache
from app.handler.lm.drafting import Drafter
from app.handler.lm.grammar import Grammar, Words, mask_logits
from app.handler.lm.logprobs import PendingLogprobs, StepLogprobs
from app.handler.lm.sampling import BatchSampler, RowSampler


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A sequence in the batch; `last_token` is the first to be fed, the last of what its cache is to hold by then.

    It is the prompt's last, or one that was generated when the row was in the batch before.
    """

    id: int
    last_token: int
    sampler: RowSampler
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    # The prompt and every token that a step has given.
    history: Callable[[], list[int]] = list


@dataclass(frozen=True, slots=True)
class StepToken:
    """What a step gave one row; `token` is None for a row that its grammar failed."""

    row_id: int
    token: int | None
    logprobs: StepLogprobs | None = None


class DecodeBatch:
    """Decodes its rows in step. Owned by the worker's main thread.

    The step is pipelined: the forward pass over the newest tokens is started before they are read, so that the device
    works while text is made of them. Where there are grammars or DRY, they take the newest tokens while it runs.
    """

    def __init__(
        self, model: nn.Module, eos_tokens: frozenset[int] = frozenset(), drafter: Drafter | None = None
    ) -> None:
        self._model = model
        self._eos_tokens = eos_tokens
        self._drafter = drafter
        self.clear()

    def clear(self) -> None:
        """Drop every row."""
        self._rows: list[BatchRow] = []
        self._cache = BatchCache()
        # What is fed next, shape (rows,), and for which rows that is no news.
        self._tokens: mx.array | None = None
        self._is_first: list[bool] = []
        self._logprobs: PendingLogprobs | None = None
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
        for row in rows:
            # A row that was in a batch before left it with a token drawn that nobody has seen.
            row.sampler.step_back()
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

    @property
    def num_tokens(self) -> int:
        """Of the longest row, as far as the cache goes."""
        return self._cache.num_tokens

    def cache_of(self, row_id: int) -> RowCache | None:
        """The cache of a row: its prompt, and every generated token that a step has given. None for an unknown row."""
        for index, row in enumerate(self._rows):
            if row.id == row_id:
                return None if self._is_first[index] else self._cache.row(index)
        return None

    def step(self) -> list[StepToken]:
        """Start computing the next tokens and give those of the step before."""
        tokens, was_first = self._tokens, self._is_first
        if tokens is None:
            return []
        if self._drafter is not None and self._can_draft():
            return self._step_ahead(self._rows[0], tokens, self._drafter)
        pending = self._logprobs
        logits = self._model(tokens[:, None], cache=self._cache.layers)[:, -1, :]
        if any(row.grammar is not None or row.sampler.reads_tokens for row in self._rows):
            mx.async_eval(logits)
            given = self._read(tokens, was_first, pending)
            self._sample(self._constrained(logits, given), logits, tokens, was_first)
        else:
            self._sample(logits, logits, tokens, was_first)
            given = self._read(tokens, was_first, pending)
        self._is_first = [False] * len(self._rows)
        return [one for one, first in zip(given, was_first, strict=True) if one.token is None or not first]

    def _can_draft(self) -> bool:
        """Whether the only row takes the likeliest token, whatever it is."""
        if len(self._rows) != 1 or self._is_first[0]:
            return False
        row = self._rows[0]
        asked = row.sampler.parameters
        is_plain = row.grammar is None and row.top_logprobs is None and not row.sampler.reads_tokens
        return is_plain and asked.is_greedy and not asked.adjusts_logits

    def _step_ahead(self, row: BatchRow, newest: mx.array, drafter: Drafter) -> list[StepToken]:
        """Give the newest token and those after it that were guessed right; the check also gives the one to come."""
        read: list[int] = newest.tolist()  # type: ignore[assignment]
        token = read[0]
        guesses = drafter.guess(row.id, [*row.history(), token])
        logits = self._model(mx.array([[token, *guesses]]), cache=self._cache.layers)
        checked: list[int] = mx.argmax(logits[0], axis=-1).tolist()  # type: ignore[assignment]
        num_right = 0
        while num_right < len(guesses) and guesses[num_right] == checked[num_right]:
            num_right += 1
        self._cache.trim(len(guesses) - num_right)
        self._tokens = mx.array([checked[num_right]], dtype=mx.uint32)
        return [StepToken(row.id, one) for one in [token, *guesses[:num_right]]]

    def _sample(self, masked: mx.array, logits: mx.array, tokens: mx.array, was_first: list[bool]) -> None:
        """Start computing the next tokens, from the logits that the grammars have masked."""
        if self._sampler is None:
            self._sampler = BatchSampler([row.sampler for row in self._rows])
        self._tokens = self._sampler(masked, tokens, was_first).astype(mx.uint32)
        asked = {row.id: (i, row.top_logprobs) for i, row in enumerate(self._rows) if row.top_logprobs is not None}
        self._logprobs = PendingLogprobs(logits, self._tokens, asked) if asked else None
        mx.async_eval(self._tokens, *(self._logprobs.arrays if self._logprobs is not None else []))

    def _read(self, tokens: mx.array, was_first: list[bool], pending: PendingLogprobs | None) -> list[StepToken]:
        """Each row's newest token; for a row that has just joined, the last it came with."""
        values: list[int] = tokens.tolist()  # type: ignore[assignment]
        logprobs = pending.read() if pending is not None else {}
        given: list[StepToken] = []
        for row, value, first in zip(self._rows, values, was_first, strict=True):
            token: int | None = value
            if not first:
                row.sampler.penalties.note(value)
            if row.grammar is not None and not first and value not in self._eos_tokens:
                try:
                    row.grammar.advance(value)
                except Exception:
                    logger.exception("the grammar of row {} failed", row.id)
                    token = None
            given.append(StepToken(row.id, token, logprobs.get(row.id)))
        return given

    def _constrained(self, logits: mx.array, given: list[StepToken]) -> mx.array:
        """The logits, with what grammars do not allow ruled out; a grammar that fails here fails its row only."""
        places: list[int] = []
        masks: list[Words] = []
        for place, row in enumerate(self._rows):
            # A row that has just ended has no next token to constrain.
            is_over = given[place].token is None or given[place].token in self._eos_tokens
            if row.grammar is not None and not (is_over and not self._is_first[place]):
                try:
                    masks.append(row.grammar.allowed())
                    places.append(place)
                except Exception:
                    logger.exception("the grammar of row {} failed", row.id)
                    given[place] = StepToken(row.id, None)
        return mask_logits(logits, places, np.stack(masks)) if places else logits
