"""Answers of a certain form: which tokens may come next, by llguidance.

Source: https://github.com/guidance-ai/llguidance
"""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from app.core.output_format import Choice, JsonObject, JsonSchema, Lark, OutputFormat, Regex
from app.errors import InternalError, InvalidRequest
from app.handler.lm.grammar_text import choice_grammar, cleaned_fault, lark_grammar, regex_grammar
from app.handler.lm.grammar_tokens import llguidance_tokenizer
from app.handler.lm.json_ending import JsonClosers, JsonEnding
from app.handler.lm.json_schema import Schema, locate_fault, read_schema, schema_grammar

Words = NDArray[np.uint32]

_WORD_BITS: Final = 32
_MAX_KEPT: Final = 32
_MAX_KEPT_CHARACTERS: Final = 1024 * 1024


class Grammar:
    """Which tokens one row may generate next. Owned by the worker's main thread.

    `allowed` and `advance` raise InternalError when llguidance gives up on this row.
    """

    __slots__ = ("_ending", "_has_restarted", "_matcher", "_source", "_tokens")

    def __init__(self, source: "_Source", matcher: LLMatcher, ending: JsonEnding | None = None) -> None:
        self._source = source
        self._matcher = matcher
        self._ending = ending
        self._tokens: list[int] = []
        self._has_restarted = False

    def allowed(self) -> Words:
        """The next token's mask: a bit per logit, shape (words,), lowest bit first.

        End-of-sequence tokens are in it where the text is complete, and nothing else where it cannot go on.
        """
        words = self._source.fill(self._matcher)
        if self._matcher.is_error():
            self._restart()
            words = self._source.fill(self._matcher)
            if self._matcher.is_error():
                raise self._failure()
        if not words.any():
            raise InternalError("The model has no token for how this answer must go on.")
        return words if self._ending is None else self._ending.narrowed(words)

    def advance(self, token: int) -> None:
        """Take a token that `allowed` had."""
        self._tokens.append(token)
        if self._ending is not None:
            self._ending.advance(token)
        if not self._matcher.consume_token(token):
            self._restart()

    @property
    def is_finished(self) -> bool:
        """Whether the text is complete and cannot go on: only an end-of-sequence token is left."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def copy(self) -> "Grammar":
        """The same state, to go on from independently."""
        self._has_restarted = False
        ending = self._ending.copy() if self._ending is not None else None
        other = Grammar(self._source, self._matcher.deep_copy(), ending)
        other._tokens = list(self._tokens)
        return other

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


class GrammarCompiler:
    """Compiles the formats of one model's answers. Owned by the prepare thread; makes no MLX arrays.

    `vocabulary_size` is the width of the logits, often more than the tokenizer has.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int, eos_tokens: Iterable[int]) -> None:
        self._hf_tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._eos_tokens = frozenset(eos_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._closers: JsonClosers | None = None
        self._kept: OrderedDict[OutputFormat, _Compiled] = OrderedDict()

    def warm_up(self) -> None:
        """Build what the first `compile` would: 0.2 s for 49k tokens, in which no other thread runs.

        A tokenizer that llguidance cannot use is an error of the requests that need it.
        """
        with suppress(InvalidRequest):
            self._json_closers()

    def compile(self, asked: OutputFormat, max_tokens: int | None = None) -> Grammar:
        """A grammar at its start, for an answer of at most `max_tokens`, before which JSON is brought to its end.

        Errors: InvalidRequest, which says what is wrong with the format.
        """
        compiled = self._kept.get(asked)
        if compiled is None or compiled.fault():
            compiled = self._compiled(asked)
        self._keep(asked, compiled)
        is_json = isinstance(asked, JsonObject | JsonSchema)
        ending = JsonEnding(self._json_closers(), max_tokens) if is_json and max_tokens is not None else None
        return Grammar(compiled.source, compiled.matcher.deep_copy(), ending)

    def _built(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = llguidance_tokenizer(self._hf_tokenizer, self._vocabulary_size, self._eos_tokens)
        return self._tokenizer

    def _json_closers(self) -> JsonClosers:
        if self._closers is None:
            self._closers = JsonClosers(self._built())
        return self._closers

    def _compiled(self, asked: OutputFormat) -> "_Compiled":
        match asked:
            case JsonSchema():
                return self._compiled_schema(asked)
            case JsonObject():
                what, text = "JSON object", schema_grammar({"type": "object"})
            case Regex(pattern):
                what, text = "regular expression", regex_grammar(pattern)
            case Choice(choices):
                what, text = "choice", choice_grammar(choices)
            case Lark(grammar):
                what, text = "grammar", lark_grammar(grammar)
        compiled = self._matched(text)
        if fault := compiled.fault():
            raise InvalidRequest(f"Invalid {what}: {fault}.", param="response_format")
        return compiled

    def _compiled_schema(self, asked: JsonSchema) -> "_Compiled":
        schema = read_schema(asked.schema)
        compiled = self._matched(schema_grammar(schema))
        if compiled.fault():
            fault = locate_fault(schema, self._schema_fault)
            place = " in ".join(filter(None, (fault.keyword and f"'{fault.keyword}'", fault.path)))
            what = f"schema for response_format '{asked.name}'" if asked.name else "schema"
            parts = filter(None, (f"Invalid {what}", place, fault.what))
            raise InvalidRequest(f"{': '.join(parts)}.", param="response_format")
        return compiled

    def _schema_fault(self, schema: Schema) -> str:
        return self._matched(schema_grammar(schema)).fault()

    def _matched(self, text: str) -> "_Compiled":
        source = _Source(text, self._built(), self._vocabulary_size)
        return _Compiled(source, source.matcher())

    def _keep(self, asked: OutputFormat, compiled: "_Compiled") -> None:
        """Put it last, and let go of the first ones while there is too much."""
        self._kept[asked] = compiled
        self._kept.move_to_end(asked)
        num_characters = sum(len(one.source.text) for one in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MAX_KEPT or num_characters > _MAX_KEPT_CHARACTERS):
            _, first = self._kept.popitem(last=False)
            num_characters -= len(first.source.text)


@dataclass(frozen=True, slots=True)
class _Source:
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
        words = np.empty(_num_words(self.tokenizer.vocab_size), dtype=np.uint32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self.tokenizer.vocab_size > self.vocabulary_size:
            words = words[: _num_words(self.vocabulary_size)]
            words[-1] &= np.uint32(0xFFFFFFFF >> (-self.vocabulary_size % _WORD_BITS))
        return words


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grammar at its start, to be copied for each row."""

    source: _Source
    matcher: LLMatcher

    def fault(self) -> str:
        """What is wrong with it; empty if nothing is. That the first mask can be computed is a part of it."""
        if not self.matcher.is_error():
            self.source.fill(self.matcher)
        return cleaned_fault(self.matcher.get_error()) if self.matcher.is_error() else ""


def mask_logits(logits: mx.array, rows: list[int], masks: Words) -> mx.array:
    """Leave only the allowed tokens in some rows of `logits`, shape (batch, vocabulary).

    `rows` is ascending, `masks` has one row of `Grammar.allowed` for each of them.
    """
    num_rows, size = logits.shape
    if 2 * len(rows) > num_rows:
        words = np.full((num_rows, masks.shape[1]), 0xFFFFFFFF, dtype=np.uint32)
        words[rows] = masks
        return _masked(logits, words, size)
    masked = _masked(logits[mx.array(rows)], masks, size)
    parts: list[mx.array] = []
    done = 0
    for index, row in enumerate(rows):
        parts += [logits[done:row], masked[index : index + 1]]
        done = row + 1
    return mx.concatenate([*parts, logits[done:]])


def _masked(logits: mx.array, words: Words, size: int) -> mx.array:
    bits = mx.left_shift(mx.array(1, dtype=mx.uint32), mx.arange(_WORD_BITS, dtype=mx.uint32))
    is_allowed = (mx.array(words)[:, :, None] & bits) != 0
    return mx.where(is_allowed.reshape(len(words), -1)[:, :size], logits, mx.array(-mx.inf, dtype=logits.dtype))


def _num_words(num_bits: int) -> int:
    return -(-num_bits // _WORD_BITS)
