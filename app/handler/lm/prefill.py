"""The prompts on their way into the batch, in order of arrival."""

from collections import deque
from dataclasses import dataclass

from loguru import logger
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from app.handler.lm.caches import BatchCache, can_batch
from app.handler.lm.prefix_cache import PrefixCache
from app.handler.lm.row import Prompt

# Checkpoints closer together than this cost more memory than time they save.
_TOKENS_BETWEEN_CHECKPOINTS = 256


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass did: the prompts it moved on, by how many tokens in all; their cache if they are done."""

    prompts: list[Prompt]
    num_tokens: int = 0
    cache: BatchCache | None = None


class PrefillLine:
    """Prefills the prompts at the head of the line: short ones together in one pass, a long one alone, in chunks.

    Owned by the worker's main thread.
    """

    def __init__(self, model: nn.Module, prefixes: PrefixCache) -> None:
        self._model = model
        self._prefixes = prefixes
        self._can_batch = can_batch(model)
        self._line: deque[Prompt] = deque()
        # The cache of the long prompt at the head, once it has begun.
        self._begun: BatchCache | None = None
        # Prompts of a pass that failed: each is tried once more, alone, so that one cannot harm the others.
        self._suspects: set[int] = set()

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, prompt: Prompt) -> bool:
        return prompt in self._line

    @property
    def head(self) -> Prompt:
        """The prompt whose turn it is."""
        return self._line[0]

    def add(self, prompt: Prompt) -> None:
        """Put a prompt at the end of the line."""
        self._line.append(prompt)

    def remove(self, prompt: Prompt) -> None:
        """Take a prompt out, wherever it is in the line; what is in its cache by then is kept."""
        if prompt in self._line:
            if prompt is self._line[0] and self._begun is not None:
                self._keep(prompt, self._begun, 0)
                self._begun = None
            self._line.remove(prompt)
            self._suspects.discard(prompt.request_id)

    def drop(self, prompt: Prompt) -> None:
        """Take a prompt out whose cache is not to be trusted."""
        self._begun = None
        self.remove(prompt)

    def advance(self, num_tokens: int) -> Pass:
        """Prefill up to `num_tokens` tokens, padding included, of the head or of several short prompts.

        Errors: whatever the model raises, when the prompt at the head was alone in the pass; it stays at the head.
        """
        group = self._group(num_tokens)
        tokens = [prompt.next_tokens(self._up_to_checkpoint(prompt, num_tokens)) for prompt in group]
        try:
            cache = self._begun or BatchCache.of([prompt.cache for prompt in group])
            if any(tokens):
                cache.feed(self._model, tokens)
        except Exception:
            if len(group) == 1:
                raise
            logger.warning("a pass over {} prompts failed; each is tried alone", len(group))
            for prompt in group:
                self._suspects.add(prompt.request_id)
                prompt.is_looked_up = False
            return Pass([])
        for place, (prompt, fed) in enumerate(zip(group, tokens, strict=True)):
            prompt.num_prefilled += len(fed)
            if not prompt.num_left or prompt.num_prefilled == self._next_checkpoint(prompt, prompt.num_prefilled):
                self._keep(prompt, cache, place)
        num_fed = sum(map(len, tokens))
        if group[0].num_left:
            self._begun = cache
            return Pass(group, num_fed)
        self._begun = None
        for prompt in group:
            self.remove(prompt)
        return Pass(group, num_fed, cache)

    def _group(self, num_tokens: int) -> list[Prompt]:
        """The head of the line, and who follows it if together they fit into one pass of `num_tokens`, padded."""
        group = [self._looked_up(self._line[0])]
        longest = group[0].num_left
        if self._begun is not None or longest > num_tokens or self._stands_alone(group[0]):
            return group
        for prompt in list(self._line)[1:]:
            longest = max(longest, self._looked_up(prompt).num_left)
            if self._stands_alone(prompt) or longest * (len(group) + 1) > num_tokens:
                # It is looked up again when its turn comes: by then more may be kept.
                prompt.is_looked_up = False
                break
            group.append(prompt)
        return group

    def _looked_up(self, prompt: Prompt) -> Prompt:
        """The prompt, with the longest beginning of it that is kept already in its cache."""
        if not prompt.is_looked_up:
            hit = self._prefixes.fetch(prompt.asked.cache_namespace, prompt.asked.prompt)
            prompt.cache = hit.cache if hit is not None else make_prompt_cache(self._model)
            prompt.num_cached = prompt.num_prefilled = prompt.kept_at = hit.num_tokens if hit is not None else 0
            prompt.is_looked_up = True
        return prompt

    def _keep(self, prompt: Prompt, cache: BatchCache, place: int) -> None:
        prompt.kept_at = prompt.num_prefilled
        tokens = prompt.asked.prompt[: prompt.num_prefilled]
        self._prefixes.store(prompt.asked.cache_namespace, tokens, cache.row(place))

    def _up_to_checkpoint(self, prompt: Prompt, num_tokens: int) -> int:
        """As many of `num_tokens` as there are before the next place that is worth a checkpoint."""
        end = self._next_checkpoint(prompt, prompt.num_prefilled + 1)
        return num_tokens if end is None else min(num_tokens, end - prompt.num_prefilled)

    def _next_checkpoint(self, prompt: Prompt, start: int) -> int | None:
        """The first end of a message from `start` on that is far enough from the last checkpoint, where they matter."""
        if not self._prefixes.needs_checkpoints:
            return None
        earliest = max(start, prompt.kept_at + _TOKENS_BETWEEN_CHECKPOINTS)
        return next((end for end in prompt.asked.message_ends if end >= earliest), None)

    def _stands_alone(self, prompt: Prompt) -> bool:
        """Whether a prompt shares no pass: it is suspect, it has nothing to prefill, it stops at a checkpoint, or no
        rows of this model can.
        """
        return (
            not self._can_batch
            or prompt.request_id in self._suspects
            or not prompt.num_left
            or self._up_to_checkpoint(prompt, prompt.num_left) < prompt.num_left
        )
