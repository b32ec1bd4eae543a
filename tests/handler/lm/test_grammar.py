"""What comes out of a grammar, whichever of the allowed tokens a model chooses."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from app.core.output_format import Choice, JsonObject, Lark, Regex
from app.errors import InternalError
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from app.handler.source import resolve
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import Model, refused, schema_format, tiny
from tests.fixtures.json_schemas import SCHEMAS, array, record


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = resolve("smollm2-135m-instruct", tmp_path_factory.mktemp("cache"), print)
    return Model(AutoTokenizer.from_pretrained(folder), (0, 2))


@pytest.fixture(scope="module", params=["byte-level", "spm", "spm-no-strip"])
def tiny_model(request: pytest.FixtureRequest) -> Model:
    """Of about a thousand tokens, with logits for a few more."""
    return tiny(tiny_tokenizers.build(request.param), vocabulary_size=1061)


@pytest.fixture(scope="module")
def byte_level() -> Model:
    return tiny(tiny_tokenizers.build("byte-level"), vocabulary_size=1061)


def validator(schema: dict[str, Any]) -> Callable[[str], bool]:
    checked = Draft202012Validator(schema, format_checker=FormatChecker())
    return lambda text: checked.is_valid(json.loads(text))


class TestJson:
    @pytest.mark.parametrize("name", SCHEMAS)
    def test_is_valid_wherever_it_may_end(self, smollm: Model, name: str) -> None:
        for seed in range(8):
            smollm.generate(schema_format(SCHEMAS[name]), seed, validator(SCHEMAS[name]))

    @pytest.mark.parametrize("name", SCHEMAS)
    def test_is_valid_with_every_kind_of_tokenizer(self, tiny_model: Model, name: str) -> None:
        for seed in range(2):
            tiny_model.generate(schema_format(SCHEMAS[name]), seed, validator(SCHEMAS[name]))

    def test_can_be_any_object(self, smollm: Model) -> None:
        texts = [
            smollm.generate(JsonObject(), seed, lambda text: isinstance(json.loads(text), dict)) for seed in range(20)
        ]
        assert len(set(texts)) > 10

    def test_has_no_white_space(self, smollm: Model) -> None:
        schema = record(a=array({"type": "integer"}, minItems=2), b={"type": "boolean"})
        for seed in range(10):
            assert not re.search(r"\s", smollm.generate(schema_format(schema), seed))

    def test_has_the_keys_in_the_schemas_order(self, smollm: Model) -> None:
        schema = record(**{name: {"type": "null"} for name in "zyxabc"})
        assert smollm.generate(schema_format(schema), 0) == '{"z":null,"y":null,"x":null,"a":null,"b":null,"c":null}'

    def test_ignores_the_librarys_own_options(self, smollm: Model) -> None:
        schema = record(a={"type": "null"}) | {"x-guidance": {"key_separator": " = ", "whitespace_flexible": True}}
        assert smollm.generate(schema_format(schema), 0) == '{"a":null}'

    def test_of_a_property_named_as_a_keyword(self, smollm: Model) -> None:
        schema = record(oneOf={"type": "null"}, multipleOf={"const": {"oneOf": [{"type": "null"}]}})
        text = smollm.generate(schema_format(schema), 0)
        assert text == '{"oneOf":null,"multipleOf":{"oneOf":[{"type":"null"}]}}'

    @pytest.mark.parametrize(
        ("bounds", "whole"),
        [
            ({"exclusiveMinimum": 0, "maximum": 0.25}, "0"),
            ({"exclusiveMinimum": 1, "exclusiveMaximum": 1.5}, "1"),
            ({"minimum": -0.5, "exclusiveMaximum": 0}, "-0"),
            ({"minimum": 1.75, "exclusiveMaximum": 2}, "2"),
        ],
    )
    def test_keeps_exclusive_bounds_out(self, byte_level: Model, bounds: dict[str, float], whole: str) -> None:
        grammar = byte_level.compiler.compile(schema_format({"type": "number", **bounds}))
        try:
            byte_level.feed(grammar, whole)
        except ValueError:
            return
        assert not set(byte_level.eos_tokens) & set(byte_level.allowed(grammar).tolist())


class TestOtherFormats:
    @pytest.mark.parametrize(
        "pattern",
        [
            "[a-f]{3,8}",
            "^(yes|no)$",
            r"\d{3}-\d{4}",
            "a/b|/c/",
            r"(\w{1,9} ){2}end",
            "é☃+",
            "x\ny",
            r"[^a]{4}\\",
            "(?i)select|(?s:.{5})",
        ],
    )
    def test_a_regex_matches_from_end_to_end(self, smollm: Model, pattern: str) -> None:
        for seed in range(5):
            text = smollm.generate(Regex(pattern), seed)
            assert re.fullmatch(pattern, text), text

    def test_each_choice_can_come_out_and_nothing_else(self, smollm: Model) -> None:
        choices = ("a", "ab", " abc", "b|c", '"quoted"\\', "two\nlines", "/re/", "é☃😀", "\x00\u2028", "start: x")
        asked = Choice(choices)
        assert {smollm.generate(asked, seed) for seed in range(30)} <= set(choices)
        for choice in choices:
            grammar = smollm.compiler.compile(asked)
            smollm.feed(grammar, choice)
            assert set(smollm.eos_tokens) <= set(smollm.allowed(grammar).tolist())

    @pytest.mark.parametrize(
        "grammar",
        [
            'start: "(" number ("+" number)* ")"\nnumber: /[0-9]{1,3}/',
            'root ::= "(" number tail ")"\ntail ::= ("+" number)*\nnumber ::= [0-9] [0-9]? [0-9]?',
        ],
        ids=["lark", "gbnf"],
    )
    def test_a_grammar_is_kept_to(self, smollm: Model, grammar: str) -> None:
        for seed in range(10):
            text = smollm.generate(Lark(grammar), seed)
            assert re.fullmatch(r"\([0-9]{1,3}(\+[0-9]{1,3})*\)", text), text


class TestEnds:
    def test_come_with_a_complete_text_only(self, byte_level: Model) -> None:
        grammar = byte_level.compiler.compile(Regex("x{2,3}"))
        byte_level.feed(grammar, "x")
        assert 2 not in byte_level.allowed(grammar)
        byte_level.feed(grammar, "x")
        assert 2 in byte_level.allowed(grammar)
        assert len(byte_level.allowed(grammar)) > 1
        byte_level.feed(grammar, "x")
        assert byte_level.allowed(grammar).tolist() == [2]

    def test_special_and_padded_tokens_are_no_text(self, byte_level: Model) -> None:
        grammar = byte_level.compiler.compile(Regex("(?s:.*)"))
        allowed = byte_level.allowed(grammar).tolist()
        assert set(range(3)) & set(allowed) == {2}
        assert {byte_level.text([token]) for token in allowed} >= {"a", "the", " "}
        assert all(byte_level.text([token]) for token in allowed if token not in byte_level.eos_tokens)

    def test_that_are_plain_tokens_are_no_text(self) -> None:
        backend = tiny_tokenizers.build("byte-level")
        token = backend.token_to_id("x")
        assert token is not None
        model = tiny(backend, (token,))
        grammar = model.compiler.compile(Regex("(x|y){2}"))
        for _ in range(2):
            assert token not in model.allowed(grammar)
            model.feed(grammar, "y")
        assert model.allowed(grammar).tolist() == [token]

    def test_that_no_token_has_are_left_out(self) -> None:
        grammar = tiny(tiny_tokenizers.build("byte-level"), (2, 1015), 1061).compiler.compile(Choice(("x",)))
        assert 1015 not in np.flatnonzero(np.unpackbits(grammar.allowed().view(np.uint8), bitorder="little"))

    def test_are_needed(self) -> None:
        compiler = GrammarCompiler(
            PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizers.build("byte-level")), 1061, (1015,)
        )
        assert "no end-of-sequence token" in refused(compiler, JsonObject())


class TestVocabularies:
    def test_wider_than_the_logits_are_cut(self) -> None:
        backend = tiny_tokenizers.build("byte-level")
        model = tiny(backend, vocabulary_size=backend.get_vocab_size() - 5)
        assert model.size % 32
        assert len(model.allowed(model.compiler.compile(Regex("(?s:.*)")))) > 800
        model.generate(schema_format(SCHEMAS["order"]), 0, validator(SCHEMAS["order"]))

    def test_that_cannot_go_on_say_so(self) -> None:
        """The only token of `last` is cut off."""
        backend = tiny_tokenizers.build("metaspace")
        content = json.loads(backend.to_str()) | {"decoder": {"type": "ByteFallback"}}
        backend = Tokenizer.from_str(json.dumps(content))
        last = "☺"
        backend.add_tokens([AddedToken(last, special=False, normalized=False)])
        model = tiny(backend, vocabulary_size=backend.get_vocab_size() - 1)
        grammar = model.compiler.compile(Choice((last,)))
        with pytest.raises(InternalError, match="no token"):
            grammar.allowed()

    def test_with_gaps_are_filled(self) -> None:
        content = json.loads(tiny_tokenizers.build("byte-level").to_str())
        content["added_tokens"] = content["added_tokens"][:3]
        vocabulary = content["model"]["vocab"]
        last = max(vocabulary, key=lambda token: vocabulary[token])
        vocabulary[last] += 7
        model = tiny(Tokenizer.from_str(json.dumps(content)), vocabulary_size=vocabulary[last] + 1)
        allowed = model.allowed(model.compiler.compile(Regex("(?s:.*)"))).tolist()
        assert vocabulary[last] in allowed
        assert not set(range(vocabulary[last] - 7, vocabulary[last])) & set(allowed)
        model.generate(schema_format(SCHEMAS["person"]), 0, validator(SCHEMAS["person"]))

    def test_that_are_no_bytes_are_refused(self) -> None:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizers.build("metaspace"))
        compiler = GrammarCompiler(tokenizer, 1061, (2,))
        compiler.warm_up()
        assert "decoder" in refused(compiler, JsonObject())


class TestRows:
    def test_of_one_format_do_not_touch_each_other(self, smollm: Model) -> None:
        asked = schema_format(SCHEMAS["person"])
        first, second = smollm.compiler.compile(asked), smollm.compiler.compile(asked)
        start = second.allowed()
        smollm.feed(first, '{"name":"Jo')
        assert np.array_equal(second.allowed(), start)
        assert not np.array_equal(first.allowed(), start)

    def test_a_copy_goes_on_by_itself(self, smollm: Model) -> None:
        whole = smollm.compiler.compile(schema_format(SCHEMAS["person"]))
        smollm.feed(whole, '{"name":"Jo')
        copy = whole.copy()
        assert np.array_equal(copy.allowed(), whole.allowed())
        smollm.feed(whole, '","age":120,"tags":[]}')
        assert whole.is_complete
        assert not copy.is_complete
        smollm.feed(copy, 'an","age":7,"tags":["red"]}')
        assert copy.is_complete

    def test_a_row_that_fails_takes_no_other_down(self, byte_level: Model) -> None:
        """The lexer that rows of a format share grows with a bounded text; it has a limit, and its errors last."""
        asked = schema_format({"type": "string", "maxLength": 1_000_000})
        other = byte_level.compiler.compile(asked)
        byte_level.feed(other, '"a')
        before = other.allowed()
        failing = byte_level.compiler.compile(asked)
        byte_level.feed(failing, '"')
        token = max(byte_level.allowed(failing).tolist(), key=lambda token: len(byte_level.text([token])))

        def run_on() -> None:
            for _ in range(60_000):
                failing.allowed()
                failing.advance(token)

        with pytest.raises(InternalError, match="cannot be kept to its format"):
            run_on()

        assert np.array_equal(other.allowed(), before)
        byte_level.feed(other, 'bc"')
        assert other.is_complete
        assert json.loads(byte_level.generate(asked, 0)) is not None

    def test_a_token_that_is_not_allowed_ends_its_row_only(self, byte_level: Model) -> None:
        grammar, other = (byte_level.compiler.compile(Choice(("a", "b"))) for _ in range(2))
        with pytest.raises(InternalError, match="cannot be kept to its format"):
            grammar.advance(2)
        assert len(byte_level.allowed(other)) == 2

    def test_no_more_formats_are_kept_than_have_room(self, byte_level: Model) -> None:
        for index in range(40):
            byte_level.compiler.compile(Choice((f"choice {index}",)))
        assert len(byte_level.compiler._kept) == 32
        for index in range(8):
            byte_level.compiler.compile(schema_format({"enum": [f"{index}" * 250_000]}))
        assert len(byte_level.compiler._kept) == 4
