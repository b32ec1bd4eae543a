"""Answers of a certain form: which tokens may come next, by llguidance.

Source: https://github.com/guidance-ai/llguidance
"""

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from app.errors import InternalError
from app.handler.lm.guides.ending import Ending
from app.handler.lm.guides.grammar_text import cleaned_fault
from app.handler.lm.guides.masks import Words, cut_mask, mask_of_one, num_words


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar in llguidance's notation, and what it takes to run it."""

    text: str
    tokenizer: LLTokenizer
    vocabulary_size: int

    def matcher(self) -> LLMatcher:
        # Bounds the compilation to about a second; a step is bounded to about 15 ms by default.
        limits = LLParserLimits(initial_lexer_fuel=400_000, verbose_errors=False)
        return LLMatcher(self.tokenizer, self.text, log_level=0, limits=limits)

    def fill(self, matcher: LLMatcher) -> Words:
        """The mask of the next token; it means nothing where the matcher comes into its error state by it."""
        words = np.empty(num_words(self.tokenizer.vocab_size), dtype=np.uint32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        return cut_mask(words, self.vocabulary_size)

    def forced(self, matcher: LLMatcher) -> list[int]:
        """The next tokens as far as they are known, up to one that the logits do not have."""
        tokens = matcher.compute_ff_tokens()
        return list(takewhile(lambda token: token < self.vocabulary_size, tokens))


class Grammar:
    """Which tokens one row may generate next. Owned by the worker's main thread; a `Guide`.

    Where the text that must follow is known, its tokens are those that the tokenizer itself would make of it.
    `allowed` and `advance` raise InternalError when llguidance gives up on this row.
    """

    __slots__ = ("_ending", "_forced", "_has_restarted", "_matcher", "_source", "_tokens", "num_required")

    def __init__(self, source: GrammarSource, matcher: LLMatcher, ending: Ending | None = None) -> None:
        self._source = source
        self._matcher = matcher
        self._ending = ending
        self._forced: list[int] = []
        self._tokens: list[int] = []
        self._has_restarted = False
        # About how many tokens the shortest text takes.
        self.num_required = 0

    @property
    def num_characters(self) -> int:
        """Of its notation."""
        return len(self._source.text)

    @property
    def comes_to_its_end(self) -> bool:
        """Whether it does so before its tokens are used up."""
        return self._ending is not None

    @property
    def reads_tokens(self) -> bool:
        """See `Guide.reads_tokens`."""
        return True

    def allowed(self) -> Words:
        """The next token's mask: a bit per logit, shape (words,), lowest bit first.

        End-of-sequence tokens are in it where the text is complete, and nothing else where it cannot go on.
        """
        if forced := self.forced():
            return mask_of_one(forced[0], self._source.vocabulary_size)
        words = self._source.fill(self._matcher)
        if self._matcher.is_error():
            self._restart()
            words = self._source.fill(self._matcher)
            if self._matcher.is_error():
                raise self._failure()
        if not words.any():
            raise InternalError("The model has no token for how this answer must go on.")
        if self._ending is None or not self._ending.is_due:
            return words
        return self._ending.narrowed(words, self)

    def forced(self) -> list[int]:
        """The next tokens as far as there is one text only; none where the last could be the start of a longer one."""
        if not self._forced:
            self._forced = self._source.forced(self._matcher)
        return self._forced

    def advance(self, token: int) -> None:
        """Take a token that `allowed` had."""
        self._forced = self._forced[1:] if self._forced[:1] == [token] else []
        self._tokens.append(token)
        if self._ending is not None:
            self._ending.advance_token(token)
        if not self._matcher.consume_token(token):
            self._restart()

    def takes(self, token: int) -> bool:
        """Whether this token may come next."""
        return self._matcher.validate_tokens([token]) == 1

    def skip(self) -> None:
        """A token of the answer is none of this text."""
        if self._ending is not None:
            self._ending.spend()

    def takes_text(self, text: bytes) -> bool:
        """Whether `advance_text` can take this."""
        tokens = self._source.tokenizer.tokenize_bytes(text)
        return self._matcher.validate_tokens(tokens) == len(tokens)

    def advance_text(self, text: bytes) -> None:
        """Take what a token says beside something else."""
        tokens = self._source.tokenizer.tokenize_bytes(text)
        self._tokens += tokens
        if self._ending is not None:
            self._ending.advance(text)
        if not self._matcher.consume_tokens(tokens):
            self._restart()

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def fault(self) -> str:
        """What is wrong with it; empty if nothing is. That the first mask can be computed is a part of it."""
        if not self._matcher.is_error():
            self._source.fill(self._matcher)
        return cleaned_fault(self._matcher.get_error()) if self._matcher.is_error() else ""

    def expect(self, num_tokens: int) -> None:
        """The shortest text takes about so many tokens."""
        self.num_required = num_tokens
        if self._ending is not None:
            self._ending.expect(num_tokens)

    def start(self, num_left: int) -> "Grammar":
        """A copy for what is left of an answer, in which JSON and calls are brought to their end."""
        other = self.copy()
        if other._ending is not None:
            other._ending.limit(num_left)
        return other

    def copy(self) -> "Grammar":
        """The same state, to go on from independently."""
        self._has_restarted = False
        ending = self._ending.copy() if self._ending is not None else None
        other = Grammar(self._source, self._matcher.deep_copy(), ending)
        other._forced, other._tokens, other.num_required = self._forced, list(self._tokens), self.num_required
        return other

    def after(self, token: int) -> Words | None:
        """See `Outlook.after`."""
        return self._after([token])

    def after_text(self, text: bytes) -> tuple[int, Words] | None:
        """See `Outlook.after_text`."""
        tokens = self._source.tokenizer.tokenize_bytes(text, parse_special=True)
        after = self._after(tokens)
        return (tokens[0], after) if after is not None else None

    def _after(self, tokens: list[int]) -> Words | None:
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return None
        tried = self._matcher.deep_copy()
        tried.consume_tokens(tokens)
        return self._source.fill(tried)

    def _restart(self) -> None:
        """Come to the same state again with a lexer of its own.

        Copies of a matcher share a lexer, and its errors last: another row may have used up what it may grow to.
        """
        if self._has_restarted:
            raise self._failure()
        self._has_restarted = True
        self._matcher = self._source.matcher()
        if not self._matcher.consume_tokens(self._tokens):
            raise self._failure()

    def _failure(self) -> InternalError:
        fault = cleaned_fault(self._matcher.get_error())
        return InternalError(f"The answer cannot be kept to its format any longer: {fault}.")
