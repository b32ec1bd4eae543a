"""Output formats to grammars."""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerBase

from app.core.output_format import Choice, JsonObject, JsonSchema, Lark, OutputFormat, Regex
from app.errors import InternalError, InvalidRequest
from app.handler.lm.guides.ending import Ending
from app.handler.lm.guides.grammar import Grammar, GrammarSource
from app.handler.lm.guides.grammar_text import choice_grammar, lark_grammar, markup_grammar, regex_grammar
from app.handler.lm.guides.grammar_tokens import llguidance_tokenizer
from app.handler.lm.guides.json_ending import JsonClosers, JsonEnding
from app.handler.lm.guides.json_schema import Schema, locate_fault, read_schema, schema_grammar, schema_rule
from app.handler.lm.guides.markup_ending import MarkupEnding
from app.handler.lm.guides.masks import tokens_in
from app.handler.lm.guides.vocabulary import Vocabulary

_MAX_KEPT: Final = 32
_MAX_KEPT_CHARACTERS: Final = 1024 * 1024
# A short text is looked for this far; of a format without an end of its own, none may be found.
_LONGEST_SHORT_TEXT: Final = 256
_USUAL_SHORT_TEXT: Final = 64


@dataclass(frozen=True, slots=True)
class CallFormat:
    """Calls in a model's own markup: a grammar in llguidance's dialect of Lark.

    Its rules `schema_0`, `schema_1` and so on are the JSON of `schemas`, which are named as their functions. For calls
    to come to their end in time, all that the markup holds must be JSON (`is_json`), or the marks be known that end a
    text (`closes`).
    """

    lark: str
    schemas: tuple[JsonSchema, ...] = ()
    is_json: bool = True
    closes: tuple[str, ...] = ()


Format = OutputFormat | CallFormat


class GrammarCompiler:
    """Compiles the formats of one model's answers. Owned by the prepare thread; makes no MLX arrays.

    `vocabulary_size` is the width of the logits, often more than the tokenizer has.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int, eos_tokens: Iterable[int]) -> None:
        self._hf_tokenizer = tokenizer
        self._eos_tokens = frozenset(eos_tokens)
        self.vocabulary = Vocabulary(tokenizer, vocabulary_size, self._eos_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._closers: JsonClosers | None = None
        self._kept: OrderedDict[Format, Grammar] = OrderedDict()

    def warm_up(self) -> None:
        """Build what the first `compile` would: 0.2 s for 49k tokens, in which no other thread runs.

        A tokenizer that llguidance cannot use is an error of the requests that need it.
        """
        with suppress(InvalidRequest):
            self._built()
            self._json_closers()

    def compile(self, asked: Format, param: str = "response_format") -> Grammar:
        """A grammar at its start, see `Grammar.start`.

        Errors: InvalidRequest, which says what is wrong with the format that `param` gives.
        """
        kept = self._kept.get(asked)
        if kept is None or kept.fault():
            try:
                kept = self._compiled(asked, param)
            except InvalidRequest as error:
                raise InvalidRequest(error.message, param=param) from error
            kept.expect(_num_required(kept))
        self._keep(asked, kept)
        return kept.copy()

    def _built(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = llguidance_tokenizer(self._hf_tokenizer, self.vocabulary.size, self._eos_tokens)
        return self._tokenizer

    def _json_closers(self) -> JsonClosers:
        if self._closers is None:
            self._closers = JsonClosers(self.vocabulary)
        return self._closers

    def _compiled(self, asked: Format, param: str) -> Grammar:
        match asked:
            case JsonSchema():
                return self._compiled_schema(asked, param)
            case CallFormat():
                return self._compiled_calls(asked, param)
            case JsonObject():
                what, text = "JSON object", schema_grammar({"type": "object"})
            case Regex(pattern):
                what, text = "regular expression", regex_grammar(pattern)
            case Choice(choices):
                what, text = "choice", choice_grammar(choices)
            case Lark(grammar):
                what, text = "grammar", lark_grammar(grammar)
        matched = self._matched(text, asked)
        if fault := matched.fault():
            raise InvalidRequest(f"Invalid {what}: {fault}.")
        return matched

    def _compiled_schema(self, asked: JsonSchema, param: str) -> Grammar:
        schema = read_schema(asked.schema)
        matched = self._matched(schema_grammar(schema), asked)
        if matched.fault():
            fault = locate_fault(schema, self._schema_fault)
            place = " in ".join(filter(None, (fault.keyword and f"'{fault.keyword}'", fault.path)))
            owner = "function" if param == "tools" else param
            what = f"schema for {owner} '{asked.name}'" if asked.name else "schema"
            parts = filter(None, (f"Invalid {what}", place, fault.what))
            raise InvalidRequest(f"{': '.join(parts)}.")
        return matched

    def _schema_fault(self, schema: Schema) -> str:
        return self._matched(schema_grammar(schema), JsonObject()).fault()

    def _compiled_calls(self, asked: CallFormat, param: str) -> Grammar:
        rules = (schema_rule(f"schema_{place}", read_schema(one.schema)) for place, one in enumerate(asked.schemas))
        matched = self._matched(markup_grammar("\n".join((asked.lark, *rules))), asked)
        if fault := matched.fault():
            for schema in asked.schemas:
                self._compiled_schema(schema, param)
            raise InvalidRequest(f"The calls of these functions cannot be written down: {fault}.")
        return matched

    def _matched(self, text: str, asked: Format) -> Grammar:
        source = GrammarSource(text, self._built(), self.vocabulary.size)
        return Grammar(source, source.matcher(), self._ending(asked))

    def _ending(self, asked: Format) -> Ending | None:
        match asked:
            case CallFormat(is_json=False, closes=()):
                return None
            case CallFormat(is_json=False, closes=closes):
                return MarkupEnding(self._json_closers(), tuple(close.encode() for close in closes))
            case CallFormat() | JsonObject() | JsonSchema():
                return JsonEnding(self._json_closers())
            case Regex() | Choice() | Lark():
                return None

    def _keep(self, asked: Format, grammar: Grammar) -> None:
        """Put it last, and let go of the first ones while there is too much."""
        self._kept[asked] = grammar
        self._kept.move_to_end(asked)
        num_characters = sum(one.num_characters for one in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MAX_KEPT or num_characters > _MAX_KEPT_CHARACTERS):
            _, first = self._kept.popitem(last=False)
            num_characters -= first.num_characters


def _num_required(grammar: Grammar) -> int:
    """How many tokens a short text takes, with only what it must have; a guess where none is found."""
    walker, draw = grammar.start(0), Random(0)
    with suppress(InternalError):
        for num_tokens in range(_LONGEST_SHORT_TEXT):
            if walker.is_complete:
                return num_tokens
            walker.advance(int(draw.choice(tokens_in(walker.allowed()))))
    return _LONGEST_SHORT_TEXT if grammar.comes_to_its_end else _USUAL_SHORT_TEXT
