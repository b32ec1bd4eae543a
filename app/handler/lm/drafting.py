"""Speculative decoding: a small model guesses some tokens ahead, and the model itself checks them in one pass.

For a greedy row that runs alone the text is what the model would have said by itself, in fewer passes.
Source: https://arxiv.org/abs/2211.17192
"""

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from app.handler.lm.kv.caches import Cache

_PREFILL_TOKENS = 512


class Drafter:
    """The small model, and its cache of the row it follows. Owned by the worker's main thread."""

    def __init__(self, model: nn.Module, num_tokens: int) -> None:
        self._model = model
        self.num_tokens = num_tokens
        self._row_id: int | None = None
        self._fed: list[int] = []
        self._cache: Cache = []

    @staticmethod
    def can_check(model: nn.Module) -> bool:
        """Whether wrong guesses can be taken back out of this model's cache."""
        return can_trim_prompt_cache(make_prompt_cache(model))

    def guess(self, row_id: int, tokens: list[int]) -> list[int]:
        """The tokens that may follow `tokens`, the whole of a row so far; at least one token is new since the last."""
        self._follow(row_id, tokens)
        guesses: list[mx.array] = []
        fed = mx.array([tokens[len(self._fed) :]])
        for _ in range(self.num_tokens):
            logits = self._model(fed, cache=self._cache)[:, -1, :]
            guesses.append(mx.argmax(logits, axis=-1))
            fed = guesses[-1][None]
        self._fed = list(tokens)
        values = [int(one) for one in mx.concatenate(guesses).tolist()]  # type: ignore[union-attr]
        self._fed += values[:-1]
        return values

    def _follow(self, row_id: int, tokens: list[int]) -> None:
        """Bring the cache to the beginning of `tokens`, all but the last: wrong guesses out, what is new in."""
        if row_id != self._row_id:
            self._row_id, self._fed, self._cache = row_id, [], make_prompt_cache(self._model)
        self._take_back(tokens)
        while len(tokens) - len(self._fed) > _PREFILL_TOKENS:
            chunk = tokens[len(self._fed) : len(self._fed) + _PREFILL_TOKENS]
            self._model(mx.array([chunk]), cache=self._cache)
            mx.eval([layer.state for layer in self._cache])
            self._fed += chunk

    def _take_back(self, tokens: list[int]) -> None:
        """Drop what was fed and is not in `tokens`; at most the last guesses."""
        keep = min(len(self._fed), len(tokens) - 1)
        while keep and self._fed[keep - 1] != tokens[keep - 1]:
            keep -= 1
        if keep < len(self._fed):
            trim_prompt_cache(self._cache, len(self._fed) - keep)
            self._fed = self._fed[:keep]
