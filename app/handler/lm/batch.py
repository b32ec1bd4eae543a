"""The rows that decode together: one forward pass gives each its next token.

Unlike mlx_lm's own batch, the step computes nothing that no row asked for: no log-probabilities, no per-row arrays.
"""

import mlx.core as mx
import numpy as np
from loguru import logger
from mlx import nn

from app.handler.lm.batch_row import BatchRow, News, StepToken
from app.handler.lm.drafting import Drafter
from app.handler.lm.guides.masks import Words, mask_logits
from app.handler.lm.kv.caches import BatchCache, RowCache, flat_layers, is_span, num_bytes
from app.handler.lm.mixed_pass import Fed, MixedPass
from app.handler.lm.row_adapters import RowAdapters
from app.handler.lm.sampling.logprobs import PendingLogprobs
from app.handler.lm.sampling.sampling import BatchSampler

# Tokens that are certain are fed so many at once.
_MOST_AHEAD = 64


class DecodeBatch:
    """Decodes its rows in step. Owned by the worker's main thread.

    The step is pipelined: the forward pass over the newest tokens is started before they are read, so that the device
    works while text is made of them. Where there are guides or DRY, they take the newest tokens while it runs. What a
    guide has come next for certain is fed at once when its row is alone; in company it is drawn like any other token,
    from a mask that leaves no choice, so that the text is the same.
    """

    def __init__(
        self,
        model: nn.Module,
        eos_tokens: frozenset[int] = frozenset(),
        drafter: Drafter | None = None,
        adapters: RowAdapters | None = None,
    ) -> None:
        self._model = model
        self._eos_tokens = eos_tokens
        self._drafter = drafter
        self._adapters = adapters or RowAdapters()
        self.clear()

    def clear(self) -> None:
        """Drop every row."""
        self._rows: list[BatchRow] = []
        self._cache = BatchCache()
        # What is fed next, shape (rows,).
        self._tokens: mx.array | None = None
        self._news: list[News] = []
        self._logprobs: PendingLogprobs | None = None
        self._sampler: BatchSampler | None = None
        # The row that was last fed ahead, and how many tokens its cache holds since.
        self._ahead: tuple[int, int] | None = None
        # Every row's shift of positions, shape (rows,), where any has one.
        self._shifts: dict[str, mx.array] = {}
        # Every row's adapter.
        self._adapter_of_rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def join(self, rows: list[BatchRow], cache: BatchCache) -> None:
        """Let prefilled rows decode from the next step on; `cache` holds all but their last tokens.

        The last ones, too, where the next step is given the logits that come after them.
        """
        self._cache.extend(cache)
        self._rows += rows
        fed = mx.array([row.last_token for row in rows], dtype=mx.uint32)
        self._tokens = fed if self._tokens is None else mx.concatenate([self._tokens, fed])
        for row in rows:
            self._news.append("told" if row.is_told else "came")
            if not row.is_told:
                # A row that was in a batch before left it with a token drawn that nobody has seen.
                row.sampler.step_back()
        self._sampler = None
        self._note_rows()

    def remove(self, ids: set[int]) -> None:
        """Take rows out, before the next step; unknown ids are ignored."""
        keep = [index for index, row in enumerate(self._rows) if row.id not in ids]
        if len(keep) == len(self._rows):
            return
        if not keep or self._tokens is None:
            self.clear()
            return
        self._rows = [self._rows[index] for index in keep]
        self._news = [self._news[index] for index in keep]
        self._cache.filter(keep)
        self._tokens = self._tokens[mx.array(keep)]
        self._sampler = None
        self._note_rows()

    def _note_rows(self) -> None:
        self._adapter_of_rows = tuple(row.adapter for row in self._rows)
        shifts = [row.position_shift for row in self._rows]
        self._shifts = {"position_shifts": mx.array(shifts)} if any(shifts) else {}

    def _forward(self, tokens: mx.array) -> mx.array:
        """The logits after each of the tokens, shape (rows, tokens), that are fed."""
        layers = self._cache.layers
        return self._adapters.run(self._model, self._adapter_of_rows, tokens, cache=layers, **self._shifts)

    def forward_beside(self, mixed: MixedPass, prompts: list[Fed]) -> mx.array:
        """The forward pass of the next step, in which prompts are fed, too: gives what `MixedPass.run` does.

        Errors: whatever the model raises; no cache that was in it is worth anything then.
        """
        if self._tokens is None:
            raise ValueError("nothing decodes")
        return mixed.run(prompts, self._cache.layers, self._tokens, **self._shifts)

    @property
    def is_plain(self) -> bool:
        """Whether there are rows, all of them the model's own: a mixed pass has no adapters."""
        return len(self._rows) > 0 and not any(self._adapter_of_rows)

    @property
    def num_tokens(self) -> int:
        """Of the longest row, as far as the cache goes."""
        return self._cache.num_tokens

    @property
    def cache_bytes(self) -> int:
        """Memory that the rows' caches take."""
        return num_bytes(self._cache.layers)

    def cache_of(self, row_id: int) -> RowCache | None:
        """The cache of a row: its prompt, and every generated token that was told, but for one that `has_told_newest`.

        None for an unknown row, and for one that ended before the last of these where that cannot be undone.
        """
        for index, row in enumerate(self._rows):
            if row.id == row_id:
                is_unknown = self._news[index] == "came" or self._is_cut_short(row)
                return None if is_unknown else self._cache.row(index)
        return None

    @property
    def has_newcomers(self) -> bool:
        """Whether there are rows that no step has given a token."""
        return "came" in self._news

    def has_told_newest(self, row_id: int) -> bool:
        """Whether a row's newest token was told before it is fed."""
        return any(row.id == row_id and news == "told" for row, news in zip(self._rows, self._news, strict=True))

    def _is_cut_short(self, row: BatchRow) -> bool:
        """Whether a state is too far that cannot be cut by position."""
        if self._ahead is None or self._ahead[0] != row.id or len(row.history()) >= self._ahead[1]:
            return False
        return not all(map(is_span, flat_layers(self._cache.layers)))

    def step(self, logits: mx.array | None = None) -> list[StepToken]:
        """Start computing the next tokens and give those of the step before.

        `logits`, shape (rows, 1, vocabulary), where the forward pass has been: see `forward_beside`.
        """
        tokens = self._tokens
        if tokens is None:
            return []
        if logits is None and self._drafter is not None and self._can_draft():
            return self._step_ahead(self._rows[0], tokens, self._drafter)
        pending = self._logprobs
        logits = (self._forward(tokens[:, None]) if logits is None else logits)[:, -1, :]
        ahead: list[int] = []
        if any(row.reads_tokens for row in self._rows):
            mx.async_eval(logits)
            given = self._read(tokens, pending)
            if ahead := self._certain(given):
                logits = self._feed_ahead(self._rows[0], ahead, is_new=self._news[0] == "drawn")
            self._sample(self._constrained(logits, given), logits, tokens)
        else:
            self._sample(logits, logits, tokens)
            given = self._read(tokens, pending)
        told = self._untold(given)
        self._news = ["drawn"] * len(self._rows)
        return told if given[0].token is None else told + [StepToken(given[0].row_id, token) for token in ahead]

    def catch_up(self) -> list[StepToken]:
        """Wait for the tokens that the last step has begun to compute, and give them: the next one does not.

        They have been told and not been fed: what the rows' caches hold ends before them.
        """
        if self._tokens is None:
            return []
        told = self._untold(self._read(self._tokens, self._logprobs))
        self._news = ["told" if news == "drawn" else news for news in self._news]
        self._logprobs = None
        return told

    def _untold(self, given: list[StepToken]) -> list[StepToken]:
        """Of each row's newest token, those that are news, and who failed."""
        return [one for one, news in zip(given, self._news, strict=True) if one.token is None or news == "drawn"]

    def _can_draft(self) -> bool:
        """Whether the only row takes the likeliest token, whatever it is."""
        if len(self._rows) != 1 or self._news[0] == "came":
            return False
        row = self._rows[0]
        asked = row.sampler.parameters
        is_plain = row.guide is None and row.top_logprobs is None and not row.sampler.reads_tokens
        return is_plain and asked.is_greedy and not asked.adjusts_logits

    def _step_ahead(self, row: BatchRow, newest: mx.array, drafter: Drafter) -> list[StepToken]:
        """Give the newest token and those after it that were guessed right; the check also gives the one to come."""
        read: list[int] = newest.tolist()  # type: ignore[assignment]
        token = read[0]
        untold = [token] if self._news[0] == "drawn" else []
        guesses = drafter.guess(row.id, row.history() + untold)
        logits = self._forward(mx.array([[token, *guesses]]))
        checked: list[int] = mx.argmax(logits[0], axis=-1).tolist()  # type: ignore[assignment]
        num_right = 0
        while num_right < len(guesses) and guesses[num_right] == checked[num_right]:
            num_right += 1
        self._cache.trim(len(guesses) - num_right)
        self._tokens = mx.array([checked[num_right]], dtype=mx.uint32)
        self._news = ["drawn"]
        return [StepToken(row.id, one) for one in untold + guesses[:num_right]]

    def _sample(self, masked: mx.array, logits: mx.array, tokens: mx.array) -> None:
        """Start computing the next tokens, from the logits that the guides have masked."""
        if self._sampler is None:
            self._sampler = BatchSampler([row.sampler for row in self._rows])
        came = [news == "came" for news in self._news]
        self._tokens = self._sampler(masked, tokens, came).astype(mx.uint32)
        asked = {row.id: (i, row.top_logprobs) for i, row in enumerate(self._rows) if row.top_logprobs is not None}
        self._logprobs = PendingLogprobs(logits, self._tokens, asked) if asked else None
        mx.async_eval(self._tokens, *(self._logprobs.arrays if self._logprobs is not None else []))

    def _read(self, tokens: mx.array, pending: PendingLogprobs | None) -> list[StepToken]:
        """Each row's newest token, whether it is to be told or not."""
        values: list[int] = tokens.tolist()  # type: ignore[assignment]
        logprobs = pending.read() if pending is not None else {}
        given: list[StepToken] = []
        for row, value, news in zip(self._rows, values, self._news, strict=True):
            token: int | None = value
            is_new = news == "drawn"
            if is_new:
                row.sampler.penalties.note(value)
            if row.guide is not None and is_new and value not in self._eos_tokens:
                try:
                    row.guide.advance(value)
                except Exception:
                    logger.exception("the guide of row {} failed", row.id)
                    token = None
            given.append(StepToken(row.id, token, logprobs.get(row.id)))
        return given

    def _certain(self, given: list[StepToken]) -> list[int]:
        """The tokens after the newest that need not be drawn: of a row alone, if it asks no log-probabilities."""
        row = self._rows[0]
        if len(self._rows) > 1 or row.guide is None or row.top_logprobs is not None or self._is_over(0, given):
            return []
        try:
            ahead = row.guide.forced()[:_MOST_AHEAD]
            for token in ahead:
                row.guide.advance(token)
        except Exception:
            logger.exception("the guide of row {} failed", row.id)
            given[0] = StepToken(row.id, None)
            return []
        return ahead

    def _feed_ahead(self, row: BatchRow, ahead: list[int], *, is_new: bool) -> mx.array:
        """The logits after tokens that are certain, shape (1, vocabulary).

        `is_new`: the token before them is still to be told.
        """
        self._ahead = row.id, len(row.history()) + is_new + len(ahead)
        logits = self._forward(mx.array([ahead]))[:, -1, :]
        row.sampler.skip(ahead, logits.shape[-1])
        return logits

    def _is_over(self, place: int, given: list[StepToken]) -> bool:
        """Whether a row has no next token: it has just ended or failed."""
        token = given[place].token
        return token is None or (token in self._eos_tokens and self._news[place] != "came")

    def _constrained(self, logits: mx.array, given: list[StepToken]) -> mx.array:
        """The logits, with what guides do not allow ruled out; a guide that fails here fails its row only."""
        places: list[int] = []
        masks: list[Words] = []
        for place, row in enumerate(self._rows):
            if row.guide is None or self._is_over(place, given):
                continue
            try:
                words = row.guide.allowed()
            except Exception:
                logger.exception("the guide of row {} failed", row.id)
                given[place] = StepToken(row.id, None)
                continue
            if words is not None:
                masks.append(words)
                places.append(place)
        return mask_logits(logits, places, np.stack(masks)) if places else logits
