"""The prompts on their way into the batch, in order of arrival."""

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil, isqrt

import mlx.core as mx
from loguru import logger

from app.handler.lm.chunk import Chunk, Pass, PromptFailedError
from app.handler.lm.engine_model import EngineModel
from app.handler.lm.kv.caches import BatchCache, num_bytes
from app.handler.lm.prefixes.prefix_cache import PrefixCache
from app.handler.lm.row import Prompt
from app.handler.lm.sampling.logprobs import StepLogprobs, known_logprobs

# Checkpoints closer together than this cost more memory than time they save.
_TOKENS_BETWEEN_CHECKPOINTS = 256
# Log-probabilities take the logits of all of a pass's tokens; otherwise none of them is computed.
_MAX_LOGITS_BYTES = 64 << 20


Verdict = Callable[[Prompt], bool]


class PrefillLine:
    """Prefills waiting prompts: short ones together in one pass, a long one alone, in chunks.

    The oldest prompt and the one with the fewest tokens left take turns: a short prompt does not wait for a long one to
    be done, and a long one moves on however many short ones come. At most `max_pairs` of a new token and one that it
    sees are in a pass, where all scores of attention are kept. Owned by the worker's main thread.
    """

    def __init__(self, parts: EngineModel, prefixes: PrefixCache, max_pairs: int | None = None) -> None:
        self._form = parts.form
        self._tail = parts.tail
        self._context_cost = parts.context_cost
        self._max_pairs = max_pairs
        self._adapters = parts.adapters
        self._prefixes = prefixes
        self._can_batch = parts.form.can_batch
        self._line: list[Prompt] = []
        self._is_oldest_next = True
        self._logits_width = 0

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._line)

    @property
    def cache_bytes(self) -> int:
        """Memory that the caches of the prompts take which have begun."""
        return sum(num_bytes(prompt.cache) for prompt in self._line)

    def add(self, prompt: Prompt) -> None:
        """Put a prompt at the end of the line."""
        self._line.append(prompt)

    def remove(self, prompt: Prompt) -> None:
        """Take a prompt out, wherever it is in the line; what is in its cache by then is kept."""
        if prompt in self._line:
            if prompt.num_prefilled > prompt.kept_at:
                self._keep(prompt, BatchCache.of([prompt.cache]), 0)
            self.drop(prompt)

    def drop(self, prompt: Prompt) -> None:
        """Take a prompt out whose cache is not to be trusted, or is in use elsewhere."""
        self._line.remove(prompt)
        if prompt.asked.pictures is not None:
            prompt.asked.pictures.forget()

    def choose(self, num_tokens: int, may_start: Verdict, may_lead: Verdict) -> Chunk | None:
        """What to feed next: as much as `num_tokens` first tokens cost, padding included, of one prompt or of several
        short ones; with the last ones of those that can and `may_lead`.

        A prompt that has not begun is left waiting while `may_start` says no. Nothing where none may start; None where
        something was read or looked at for one instead. Errors: PromptFailedError; it stays in the line.
        """

        def leads(prompt: Prompt) -> bool:
            return self._can_lead(prompt) and may_lead(prompt)

        group = self._group(num_tokens, may_start, leads)
        if group is None:
            return None
        if len(group) == 1:
            # Of several, each is fed to its end.
            num_tokens = self._evenly(group[0], num_tokens, has_last=leads(group[0]))
        tokens = [prompt.next_tokens(self._up_to_checkpoint(prompt, num_tokens)) for prompt in group]
        has_lead = bool(group) and leads(group[0]) and len(tokens[0]) == group[0].num_left
        if has_lead:
            tokens = [[*fed, prompt.tokens[-1]] for prompt, fed in zip(group, tokens, strict=True)]
        costs = [
            self._context_cost.of(prompt.num_prefilled, len(fed)) for prompt, fed in zip(group, tokens, strict=True)
        ]
        return Chunk(group, tokens, has_lead, round(sum(costs)))

    def _can_lead(self, prompt: Prompt) -> bool:
        """Whether the last token can be fed with those before it, and the prompt's rows are to go on there.

        A checkpoint after the last token would be of no use to the same prompt when it comes again.
        """
        is_told = prompt.tells_logprobs or prompt.asked.pictures is not None or not prompt.asked.max_tokens
        return self._tail is not None and not is_told and not self._prefixes.needs_checkpoints

    def feed(self, chunk: Chunk) -> Pass | None:
        """Feed a chunk in a pass of its own; None where several prompts failed, of which each is tried alone then.

        Errors: PromptFailedError when there is one prompt; it stays in the line.
        """
        logprobs = logits = None
        try:
            cache = BatchCache.of([prompt.cache for prompt in chunk.prompts])
            if chunk.leads:
                logits = self._feed_and_lead(chunk, cache)
            elif chunk.num_tokens:
                given = cache.feed(self._forward(chunk.prompts), chunk.tokens)
                if chunk.prompts[0].tells_logprobs:
                    logprobs = _known(chunk, given)
        except Exception as error:
            if len(chunk.prompts) == 1:
                raise PromptFailedError(chunk.prompts[0], error) from error
            logger.warning("a pass over {} prompts failed; each is tried alone", len(chunk.prompts))
            self.doubt(chunk.prompts)
            return None
        return self._settled(chunk, cache, logprobs, logits)

    def fed(self, chunk: Chunk, logits: mx.array) -> Pass:
        """A chunk was fed, each prompt's tokens into its own cache; `logits` if it leads, else of no prompt."""
        cache = BatchCache.of([prompt.cache for prompt in chunk.prompts])
        return self._settled(chunk, cache, None, logits if chunk.leads else None)

    def _feed_and_lead(self, chunk: Chunk, cache: BatchCache) -> mx.array:
        """Feed a chunk; what comes after its last tokens, shape (prompts, 1, vocabulary), computed."""
        if self._tail is None:
            raise ValueError("a chunk leads nowhere without its prompts' last logits")
        rows = mx.arange(len(chunk.prompts))
        lasts = mx.array([len(fed) - 1 for fed in chunk.tokens])
        with self._tail.only(lambda given: given[rows, lasts][:, None]):
            logits = cache.feed(self._forward(chunk.prompts), chunk.tokens)
        mx.eval(logits)
        return logits

    def doubt(self, prompts: list[Prompt]) -> None:
        """Start these again, each in passes of its own."""
        for prompt in prompts:
            prompt.is_suspect = True
            prompt.forget_cache()

    def _settled(
        self,
        chunk: Chunk,
        cache: BatchCache,
        logprobs: list[list[StepLogprobs]] | None,
        logits: mx.array | None,
    ) -> Pass:
        for place, (prompt, fed) in enumerate(zip(chunk.prompts, chunk.tokens, strict=True)):
            prompt.num_prefilled += len(fed) - chunk.leads
            if not prompt.num_left or prompt.num_prefilled == self._next_checkpoint(prompt, prompt.num_prefilled):
                self._keep(prompt, cache, place)
        if chunk.prompts[0].num_left:
            return Pass(chunk.prompts, None, logprobs or [])
        for prompt in chunk.prompts:
            self.drop(prompt)
        return Pass(chunk.prompts, cache, logprobs or [], logits)

    def _group(self, num_tokens: int, may_start: Verdict, leads: Verdict) -> list[Prompt] | None:
        """Who is next, and who fits beside it into one pass of `num_tokens`, padded; all of them lead or none.

        None where something was read or looked at for it instead.
        """
        able = [prompt for prompt in self._line if prompt.has_begun or may_start(prompt)]
        if not able:
            return []
        first = able[0] if self._is_oldest_next else min(able, key=lambda prompt: prompt.num_left)
        self._is_oldest_next = not self._is_oldest_next
        if self._loads_some(first):
            return None
        self._look_up(first)
        if self._looks_on(first):
            return None
        num_tokens = self._most_tokens(first, self._context_cost.affordable(first.num_prefilled, num_tokens))
        group, longest = [first], first.num_left + leads(first)
        if longest > num_tokens or not longest or self._stands_alone(first):
            return group
        for prompt in able:
            # Those that have begun, or are long enough for a pass of their own, are not looked up for this one.
            if prompt is first or prompt.has_begun or prompt.num_left * 2 > num_tokens:
                continue
            if prompt.tells_logprobs != first.tells_logprobs or prompt.asked.pictures is not None:
                continue
            if leads(prompt) != leads(first):
                continue
            self._look_up(prompt)
            own = prompt.num_left + leads(prompt)
            wider = max(longest, own)
            if not own or self._stands_alone(prompt) or wider * (len(group) + 1) > num_tokens:
                # By the time it is next, more may be kept.
                prompt.forget_cache()
                break
            longest = wider
            group.append(prompt)
        return group

    def _evenly(self, prompt: Prompt, most_cost: int, *, has_last: bool) -> int:
        """How many tokens the prompt's next pass may have, so that all that are left cost alike: no stream waits longer
        for one of them because another is short.
        """
        start = prompt.num_prefilled
        most_tokens = self._context_cost.affordable(start, most_cost)
        if self._most_tokens(prompt, most_tokens) < most_tokens:
            return most_tokens
        checkpoint = self._next_checkpoint(prompt, start + 1)
        num_left = prompt.num_left + has_last if checkpoint is None else checkpoint - start
        left = self._context_cost.of(start, num_left)
        even = self._context_cost.affordable(start, ceil(left / max(1, ceil(left / most_cost))))
        # Parts of a token, left over from each, would make for a pass more in the end.
        return min(most_tokens, even + (self._context_cost.even_at is not None))

    def _loads_some(self, prompt: Prompt) -> bool:
        """Read a part of what is kept of the prompt on disk; whether there was any.

        A file a turn, so that the rows that decode do not wait until a long conversation is read.
        """
        if prompt.has_begun or prompt.tells_logprobs:
            return False
        return self._prefixes.load_some(prompt.asked.cache_namespace, prompt.keys)

    def _looks_on(self, prompt: Prompt) -> bool:
        """Look at the next picture that is not in the prompt's cache yet, one a turn; whether there was any."""
        if prompt.asked.pictures is None:
            return False
        try:
            return prompt.asked.pictures.look_on(prompt.tokens, prompt.num_prefilled)
        except Exception as error:
            raise PromptFailedError(prompt, error) from error

    def _forward(self, group: list[Prompt]) -> Callable[..., mx.array]:
        pictures = group[0].asked.pictures
        model = self._form.model if pictures is None else pictures.forward(group[0].num_prefilled)
        return partial(self._adapters.run, model, tuple(prompt.asked.adapter for prompt in group))

    def _look_up(self, prompt: Prompt) -> None:
        """Put the longest beginning of the prompt that is kept already into its cache.

        What is kept says nothing of log-probabilities: where they are told, all of the prompt is computed.
        """
        if not prompt.has_begun:
            tells = prompt.tells_logprobs
            hit = None if tells else self._prefixes.fetch(prompt.asked.cache_namespace, prompt.keys)
            if hit is not None and hit.num_tokens >= prompt.num_whole:
                prompt.begin(hit.cache, hit.num_tokens)
            else:
                prompt.begin(self._form.new(), 0)

    def _keep(self, prompt: Prompt, cache: BatchCache, place: int) -> None:
        prompt.kept_at = prompt.num_prefilled
        self._prefixes.store(prompt.asked.cache_namespace, prompt.keys[: prompt.num_prefilled], cache.row(place))

    def _up_to_checkpoint(self, prompt: Prompt, num_tokens: int) -> int:
        """As many of `num_tokens` as there are before the next place that is worth a checkpoint, but none cut off that
        have to be fed together.
        """
        if prompt.num_prefilled < prompt.num_whole:
            return prompt.num_whole - prompt.num_prefilled
        num_tokens = self._most_tokens(prompt, num_tokens)
        end = self._next_checkpoint(prompt, prompt.num_prefilled + 1)
        return num_tokens if end is None else min(num_tokens, end - prompt.num_prefilled)

    def _most_tokens(self, prompt: Prompt, num_tokens: int) -> int:
        """As many of `num_tokens` as there is memory for: the scores of attention, and logits where they are needed."""
        if self._max_pairs is not None:
            seen = prompt.num_prefilled
            num_tokens = min(num_tokens, max(1, (isqrt(seen * seen + 4 * self._max_pairs) - seen) // 2))
        if not prompt.tells_logprobs:
            return num_tokens
        if not self._logits_width:
            # Only the shape is asked for: nothing is computed.
            self._logits_width = int(self._form.model(mx.array([[0]])).shape[-1])
        return min(num_tokens, max(1, _MAX_LOGITS_BYTES // (4 * self._logits_width)))

    def _next_checkpoint(self, prompt: Prompt, start: int) -> int | None:
        """The first end of a message from `start` on that is far enough from the last checkpoint, where they matter."""
        if not self._prefixes.needs_checkpoints:
            return None
        earliest = max(start, prompt.kept_at + _TOKENS_BETWEEN_CHECKPOINTS)
        return next((end for end in prompt.asked.message_ends if end >= earliest), None)

    def _stands_alone(self, prompt: Prompt) -> bool:
        """Whether a prompt shares no pass: it is suspect, it is half done, it stops at a checkpoint, there are pictures
        in it, or no rows of this model can.
        """
        return (
            not self._can_batch
            or prompt.asked.pictures is not None
            or prompt.is_suspect
            or prompt.num_prefilled > prompt.num_cached
            or self._up_to_checkpoint(prompt, prompt.num_left) < prompt.num_left
        )


def _known(chunk: Chunk, logits: mx.array) -> list[list[StepLogprobs]]:
    """What each prompt's tokens make of those that follow them, from logits of shape (prompts, tokens, vocabulary)."""
    targets = [prompt.predicted_tokens(len(fed)) for prompt, fed in zip(chunk.prompts, chunk.tokens, strict=True)]
    return known_logprobs(logits, targets, [prompt.asked.top_logprobs or 0 for prompt in chunk.prompts])
