"""What comes out under each guide, whichever of the allowed tokens a model chooses."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from app.core.output_format import Choice, JsonSchema, Regex
from app.errors import InvalidRequest
from app.handler.lm.guides.grammar_compiler import CallFormat, GrammarCompiler
from app.handler.lm.guides.guide import Guide
from app.handler.lm.guides.guide_builder import AnswerForm, GuideBuilder, LateForm, ReasoningForm
from app.handler.lm.guides.masks import tokens_in
from app.text.lark import LarkRules
from tests.fixtures import tiny_tokenizers
from tests.fixtures.choosing import schema_format
from tests.fixtures.json_schemas import SCHEMAS, record

EOS = 2
# Tokens that end or open something and go on, as real vocabularies have them.
CUT = (
    ">\n",
    ">{",
    '>{"',
    "k>x",
    "</",
    "></",
    "\n</thought",
    "<call",
    "call>\n",
    'l>{"ok":',
    "ought>\n\n",
    ">\n\n",
    ">)",
    "><c",
)
SCHEMA = record(ok={"type": "boolean"}, mood={"enum": ["good", "bad"]})
BOOLEAN = JsonSchema(json.dumps(record(ok={"type": "boolean"})), "tell")
Prefer = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Chooses at random among what a guide allows, rather what it is asked to prefer."""

    builder: GuideBuilder
    compiler: GrammarCompiler

    @property
    def size(self) -> int:
        return self.compiler.vocabulary.size

    def text(self, tokens: list[int]) -> str:
        return b"".join(map(self.compiler.vocabulary.bytes_of, tokens)).decode(errors="replace")

    def options(self, guide: Guide) -> list[int]:
        words = guide.allowed()
        allowed = list(range(self.size)) if words is None else tokens_in(words).tolist()
        if forced := guide.forced():
            assert allowed == forced[:1]
        assert not (words is not None and not guide.reads_tokens)
        return allowed

    def say(
        self, guide: Guide, max_tokens: int, seed: int, prefer: Prefer = lambda _: False, share: float = 0.3
    ) -> tuple[list[int], bool]:
        """The tokens of an answer, and whether it ended by itself."""
        draw = random.Random(seed)
        liked = {token for token in range(self.size) if prefer(self.compiler.vocabulary.bytes_of(token))}
        tokens: list[int] = []
        while len(tokens) < max_tokens:
            options = self.options(guide)
            better = liked.intersection(options) if draw.random() < share else ()
            token = draw.choice(sorted(better) or options)
            if token == EOS:
                return tokens, True
            tokens.append(token)
            guide.advance(token)
        return tokens, False

    def feed(self, guide: Guide, text: str, draw: random.Random | None = None) -> None:
        """Take the tokens of `text`, the longest that are allowed, or any."""
        left = text.encode()
        while left:
            spelled = {self.compiler.vocabulary.bytes_of(token): token for token in self.options(guide)}
            fitting = [one for one in spelled if one and left.startswith(one)]
            chosen = draw.choice(fitting) if draw is not None else max(fitting)
            guide.advance(spelled[chosen])
            left = left[len(chosen) :]

    def encode(self, text: str) -> list[int]:
        return self.compiler.vocabulary.encode(text)

    def literal(self, text: str) -> str:
        return LarkRules(self.compiler.vocabulary.added).text(text)


@pytest.fixture(scope="module", params=["byte-level", "spm-no-strip"])
def speaker(request: pytest.FixtureRequest) -> Speaker:
    """Its markers: <think> and </think> are tokens of their own, <thought> and </thought> are not."""
    backend = tiny_tokenizers.build(request.param)
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in CUT])
    compiler = GrammarCompiler(PreTrainedTokenizerFast(tokenizer_object=backend), 1100, (EOS,))
    return Speaker(GuideBuilder(compiler), compiler)


def reasoning(name: str = "thought", *, is_open: bool = True, budget: int | None = None) -> ReasoningForm:
    return ReasoningForm(f"<{name}>", f"</{name}>", f"\n</{name}>\n\n", is_open=is_open, budget=budget)


def build(speaker: Speaker, asked: AnswerForm, max_tokens: int = 400) -> Guide:
    guide = speaker.builder.build(asked, max_tokens)
    assert guide is not None
    return guide


def is_marker_part(name: str) -> Prefer:
    parts = {f"</{name}>"[start:end] for start in range(12) for end in range(start + 1, 12)} | {">\n", "ought>\n\n"}
    return lambda text: text.decode(errors="replace") in parts


def is_valid(text: str, schema: dict[str, Any] = SCHEMA) -> bool:
    return Draft202012Validator(schema).is_valid(json.loads(text))


class TestNothing:
    def test_asked_is_no_guide(self, speaker: Speaker) -> None:
        assert speaker.builder.build(AnswerForm(), 10) is None
        assert speaker.builder.build(AnswerForm(reasoning=reasoning()), 10) is None


class TestWhole:
    def test_a_format_is_kept_to_from_the_first_token(self, speaker: Speaker) -> None:
        for seed in range(10):
            tokens, has_ended = speaker.say(build(speaker, AnswerForm(schema_format(SCHEMA))), 100, seed)
            assert has_ended
            assert is_valid(speaker.text(tokens))

    def test_a_fault_names_the_field_that_has_it(self, speaker: Speaker) -> None:
        wrong = JsonSchema(json.dumps(record(a={"type": "strin"})), "tell")
        calls = CallFormat("start: schema_0 | schema_1", (BOOLEAN, wrong))
        for asked in (
            AnswerForm(wrong, param="tools"),
            AnswerForm(calls, param="tools"),
            AnswerForm(late=(LateForm("<call>", calls),), param="tools"),
        ):
            with pytest.raises(InvalidRequest, match=r"function 'tell': 'type' in properties\.a: ") as caught:
                speaker.builder.build(asked, 100)
            assert caught.value.param == "tools"
        with pytest.raises(InvalidRequest, match="cannot be written down") as caught:
            speaker.builder.build(AnswerForm(CallFormat("start: nothing"), param="tools"), 100)
        assert caught.value.param == "tools"
        with pytest.raises(InvalidRequest, match="schema for response_format 'tell'"):
            speaker.builder.build(AnswerForm(wrong), 100)


class TestReasoningBeforeAFormat:
    @pytest.mark.parametrize("name", ["think", "thought"])
    def test_ends_with_its_marker_and_nothing_else(self, speaker: Speaker, name: str) -> None:
        lengths: list[int] = []
        for seed in range(20):
            guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning(name)), 150)
            tokens, has_ended = speaker.say(guide, 150, seed, is_marker_part(name), 0.8)
            text = speaker.text(tokens)
            thought, marker, answer = text.partition(f"</{name}>")
            assert has_ended
            assert marker
            assert is_valid(answer), text
            lengths.append(len(thought))
        assert len(set(lengths)) > 5

    def test_no_end_of_sequence_ends_it(self, speaker: Speaker) -> None:
        for is_held in (True, False):
            asked = schema_format(SCHEMA) if is_held else None
            guide = build(speaker, AnswerForm(asked, reasoning=reasoning(budget=50)))
            speaker.feed(guide, "so let me see")
            options = speaker.options(guide)
            assert (EOS in options) != is_held
            assert len(options) == speaker.size - is_held

    @pytest.mark.parametrize("spaces", ["", "\n", "\n\n", " \n"])
    def test_white_space_may_come_before_the_answer(self, speaker: Speaker, spaces: str) -> None:
        draw = random.Random(spaces)
        for _ in range(10):
            guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning()))
            speaker.feed(guide, f'hm</thought>{spaces}{{"ok":true,"mood":"bad"}}', draw)
            assert speaker.options(guide) == [EOS]

    def test_white_space_does_not_go_on_for_ever(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning()))
        speaker.feed(guide, "</thought>")
        tokens, has_ended = speaker.say(guide, 100, 0, bytes.isspace, 1.0)
        assert has_ended
        assert 1 < len(speaker.text(tokens)) - len(speaker.text(tokens).lstrip()) < 20

    def test_white_space_takes_tokens_of_the_answer(self, speaker: Speaker) -> None:
        """JSON is brought to its end when as many are left, whatever came before it."""
        lengths: set[int] = set()
        for start in ("</think>", "</think>\n\n\n"):
            guide = build(
                speaker, AnswerForm(schema_format(record(text={"type": "string"})), reasoning=reasoning("think")), 90
            )
            speaker.feed(guide, start + '{"text":"')
            while len(speaker.options(guide)) > 20:
                speaker.feed(guide, "x")
            lengths.add(guide_left(guide))
        assert len(lengths) == 1

    def test_white_space_that_a_format_asks_for_is_its_own(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(Regex(r"\n[ab]"), reasoning=reasoning("think")))
        speaker.feed(guide, "hm</think>\na")
        assert speaker.options(guide) == [EOS]

    def test_no_token_that_completes_the_marker_begins_the_answer(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning()))
        speaker.feed(guide, "hm</thought")
        options = {speaker.compiler.vocabulary.bytes_of(token) for token in speaker.options(guide)}
        assert {b">", b">\n", b">\n\n", b"x"} <= options
        assert not {b">{", b'>{"', b">)", b"></"} & options

    def test_a_marker_that_is_spelled_out_is_not_the_token(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning("think")))
        for character in "</think>":
            guide.advance(speaker.encode(character)[-1])
        assert len(speaker.options(guide)) == speaker.size - 1


class TestReasoningThatMayBeOpened:
    @pytest.mark.parametrize("name", ["think", "thought"])
    def test_comes_or_not(self, speaker: Speaker, name: str) -> None:
        opened = 0
        for seed in range(20):
            guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning(name, is_open=False)), 150)
            tokens, has_ended = speaker.say(guide, 150, seed, is_marker_part(name), 0.4)
            text = speaker.text(tokens)
            assert has_ended
            if text.startswith(f"<{name}>"):
                opened += 1
                text = text.partition(f"</{name}>")[2]
            assert is_valid(text), text
        assert 2 < opened < 20

    def test_both_may_begin_alike(self, speaker: Speaker) -> None:
        for answer in ("<this>", "<those>"):
            guide = build(speaker, AnswerForm(Choice(("<this>", "<those>")), reasoning=reasoning(is_open=False)))
            speaker.feed(guide, "<th")
            speaker.feed(guide, answer[3:])
            assert speaker.options(guide) == [EOS]
        guide = build(speaker, AnswerForm(Choice(("<this>", "<those>")), reasoning=reasoning(is_open=False)))
        speaker.feed(guide, "<thought>hm</thought><those>")
        assert speaker.options(guide) == [EOS]

    def test_what_comes_with_the_opening_is_a_thought(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(schema_format(SCHEMA), reasoning=reasoning(is_open=False)))
        for text in ("<thought", "></", "thought", ">"):
            speaker.feed(guide, text)
        speaker.feed(guide, '{"ok":true,"mood":"bad"}')
        assert speaker.options(guide) == [EOS]

    def test_without_a_format_it_is_only_watched(self, speaker: Speaker) -> None:
        asked = AnswerForm(reasoning=reasoning(is_open=False, budget=3))
        guide = build(speaker, asked)
        speaker.feed(guide, "no")
        assert not guide.reads_tokens
        guide = build(speaker, asked)
        speaker.feed(guide, "\n\n<thought>")
        for token in speaker.encode("ababab")[:3]:
            assert not guide.forced()
            guide.advance(token)
        assert guide.forced() == speaker.encode("\n</thought>\n\n")


class TestBudget:
    @pytest.mark.parametrize("name", ["think", "thought"])
    @pytest.mark.parametrize("budget", [0, 1, 7])
    def test_is_the_most_that_a_thought_takes(self, speaker: Speaker, name: str, budget: int) -> None:
        closing = speaker.encode(f"\n</{name}>\n\n")
        for asked in (None, schema_format(SCHEMA)):
            guide = build(speaker, AnswerForm(asked, reasoning=reasoning(name, budget=budget)))
            for _ in range(budget):
                assert not guide.forced()
                guide.advance(speaker.encode("a")[-1])
            assert guide.forced() == closing
            for token in closing:
                assert speaker.options(guide) == [token]
                guide.advance(token)
            if asked is None:
                assert not guide.reads_tokens
                assert len(speaker.options(guide)) == speaker.size
            else:
                speaker.feed(guide, '{"ok":true,"mood":"bad"}')
                assert speaker.options(guide) == [EOS]

    def test_is_not_spent_on_the_answer(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(reasoning=reasoning(budget=30)))
        speaker.feed(guide, "hm</thought>")
        assert not guide.reads_tokens
        speaker.feed(guide, "a" * 60)
        assert len(speaker.options(guide)) == speaker.size

    def test_the_newest_token_has_a_say_only_at_the_end(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(reasoning=reasoning(budget=5)))
        reads: list[bool] = []
        for _ in range(5):
            reads.append(guide.reads_tokens)
            guide.advance(speaker.encode("a")[-1])
        assert reads == [False] * 4 + [True]
        assert guide.forced()

    @pytest.mark.parametrize("name", SCHEMAS)
    def test_a_thought_leaves_room_for_the_answer(self, speaker: Speaker, name: str) -> None:
        for seed, is_open in ((1, True), (2, False)):
            asked = AnswerForm(schema_format(SCHEMAS[name]), reasoning=reasoning("think", is_open=is_open))
            guide = build(speaker, asked, 500)
            tokens, has_ended = speaker.say(guide, 500, seed, lambda text: text == b"<think>", 1.0)
            text = speaker.text(tokens)
            assert has_ended, text
            assert text.startswith("<think>") or is_open
            assert is_valid(text.partition("</think>")[2], SCHEMAS[name])
            assert len(tokens) > 300


def calls(schema: JsonSchema = BOOLEAN) -> CallFormat:
    return CallFormat('start: "\\n"? schema_0 "</call>"', (schema,))


CALL = re.compile(r'\n?(\{"ok":(?:true|false)\})</call>')


class TestLateFormats:
    def test_hold_where_they_open_and_nowhere_else(self, speaker: Speaker) -> None:
        parts = {"<call>"[start:end].encode() for start in range(6) for end in range(start + 1, 7)} | {b"call>\n"}
        num_calls, num_free = 0, 0
        for seed in range(20):
            guide = build(speaker, AnswerForm(late=(LateForm("<call>", calls()),)), 200)
            tokens, has_ended = speaker.say(guide, 200, seed, lambda text: text in parts, 0.9)
            _, *opened = speaker.text(tokens).split("<call>")
            for index, text in enumerate(opened):
                call = CALL.match(text)
                assert call or (index == len(opened) - 1 and not has_ended), text
                num_calls += 1
                num_free += bool(call and text[call.end() :])
        assert num_calls > 20
        assert num_free > 20

    def test_a_token_may_go_on_with_what_the_format_takes(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(late=(LateForm("<call>", calls()),)))
        speaker.feed(guide, "well <cal")
        options = {speaker.compiler.vocabulary.bytes_of(token) for token in speaker.options(guide)}
        assert {b"l", b"x", b'l>{"ok":'} <= options
        for start in ('l>{"ok":', "l>"):
            one = guide.copy()
            speaker.feed(one, start)
            speaker.feed(one, "true}</call>" if "ok" in start else '{"ok":true}</call>')
            assert len(speaker.options(one)) == speaker.size
        speaker.feed(guide, "l")
        options = {speaker.compiler.vocabulary.bytes_of(token) for token in speaker.options(guide)}
        assert {b">", b">\n", b">{", b'>{"', b"x"} <= options
        assert not {b">\n\n", b">)", b"></"} & options
        guide.advance(next(iter(speaker.encode('>{"'))))
        speaker.feed(guide, 'ok":true}</call> and so on')

    def test_a_token_that_opens_one_is_not_spelled_out(self, speaker: Speaker) -> None:
        asked = AnswerForm(late=(LateForm("<tool_call>", calls()),))
        guide = build(speaker, asked)
        for character in '<tool_call>{"no":1}':
            guide.advance(speaker.encode(character)[-1])
            assert len(speaker.options(guide)) == speaker.size
        guide.advance(speaker.compiler.vocabulary.added["<tool_call>"])
        assert len(speaker.options(guide)) < 10

    def test_of_several_that_opens_which_is_said(self, speaker: Speaker) -> None:
        late = tuple(
            LateForm(f"<f={name}>", calls(JsonSchema(json.dumps(record(**{name: {"type": "null"}})))))
            for name in ("a", "b")
        )
        guide = build(speaker, AnswerForm(late=late))
        for text in ("<f=c>{", '<f=b>{"b":null}</call> ', '<f=a>{"a":null}</call>', "<f=", 'b>{"b":null}</call>x'):
            speaker.feed(guide, text)
        with pytest.raises(ValueError, match="empty"):
            speaker.feed(guide, '<f=a>{"b"')

    def test_thoughts_open_none(self, speaker: Speaker) -> None:
        for is_open, start in ((True, ""), (False, "<thought>")):
            asked = AnswerForm(late=(LateForm("<call>", calls()),), reasoning=reasoning(is_open=is_open))
            guide = build(speaker, asked)
            assert guide.reads_tokens
            speaker.feed(guide, f"{start}a <call> is no call</thought>\n<call>")
            assert speaker.options(guide) != list(range(speaker.size))
            speaker.feed(guide, '{"ok":false}</call> done')

    def test_what_follows_the_end_of_thoughts_may_open_one(self, speaker: Speaker) -> None:
        asked = AnswerForm(late=(LateForm("<call>", calls()),), reasoning=reasoning())
        guide = build(speaker, asked)
        for text in ("hm</thought", "><c", 'all>{"ok":true}</call>'):
            speaker.feed(guide, text)
        assert len(speaker.options(guide)) == speaker.size
        guide = build(speaker, asked)
        for text in ("hm</thought", "><c", "all>"):
            speaker.feed(guide, text)
        assert len(speaker.options(guide)) < 10

    def test_copies_do_not_share_what_follows(self, speaker: Speaker) -> None:
        guide = build(speaker, AnswerForm(late=(LateForm("<call>", calls()),)))
        speaker.feed(guide, '<call>{"ok":')
        copied = guide.copy()
        speaker.feed(guide, "true}</call><cal")
        speaker.feed(copied, "true}</call>")
        copied.advance(speaker.encode("l")[-1])
        copied.advance(speaker.encode(">")[-1])
        assert len(speaker.options(copied)) == speaker.size

    def test_json_is_brought_to_its_end(self, speaker: Speaker) -> None:
        """Counted from the tokens that are left where it opens."""
        unbounded = JsonSchema(json.dumps(record(text={"type": "array", "items": {"type": "string"}})))
        for seed in range(10):
            guide = build(speaker, AnswerForm(late=(LateForm("<call>", calls(unbounded)),)), 150)
            speaker.feed(guide, "a" * 40 + "<call>")
            used = 150 - guide_left(guide)
            tokens, _ = speaker.say(guide, 150 - used, seed, lambda text: b"<" not in text, 1.0)
            assert "]}</call>" in speaker.text(tokens)


def guide_left(guide: Guide) -> int:
    return guide._num_left  # type: ignore[attr-defined]


class TestForcedCalls:
    def test_are_in_the_models_own_tokens(self, speaker: Speaker) -> None:
        lark = f"start: {speaker.literal('<tool_call>')} schema_0 {speaker.literal('</tool_call>')}"
        for seed in range(5):
            guide = build(speaker, AnswerForm(CallFormat(lark, (BOOLEAN,)), param="tools"))
            tokens, has_ended = speaker.say(guide, 60, seed)
            assert has_ended
            added = speaker.compiler.vocabulary.added
            assert (tokens[0], tokens[-1]) == (added["<tool_call>"], added["</tool_call>"])
            assert is_valid(speaker.text(tokens[1:-1]), record(ok={"type": "boolean"}))

    @pytest.mark.parametrize("count", ["", "+"])
    def test_json_inside_of_markers_is_brought_to_its_end(self, speaker: Speaker, count: str) -> None:
        unbounded = JsonSchema(json.dumps(record(text={"type": "array", "items": {"type": "string"}})))
        lark = f'start: call{count}\ncall: "<call>" schema_0 "</call>"'
        for seed in range(20):
            guide = build(speaker, AnswerForm(CallFormat(lark, (unbounded,)), reasoning=reasoning(budget=9)), 120)
            tokens, has_ended = speaker.say(guide, 120, seed, lambda text: text.startswith(b"<"), 1.0)
            text = speaker.text(tokens)
            assert has_ended, text
            for call in text.partition("</thought>")[2].split("<call>")[1:]:
                assert is_valid(call.removesuffix("</call>"), {"type": "object", "required": ["text"]})


class TestCopies:
    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            (AnswerForm(schema_format(SCHEMA)), '{"ok":true,"mood":"bad"}'),
            (AnswerForm(schema_format(SCHEMA), reasoning=reasoning()), 'a</thought>\n {"ok":true,"mood":"bad"}'),
            (
                AnswerForm(schema_format(SCHEMA), reasoning=reasoning(is_open=False)),
                '<thought>a</thought>\n {"ok":true,"mood":"bad"}',
            ),
            (AnswerForm(Choice(("<this>", "<those>")), reasoning=reasoning(is_open=False)), "<those>"),
            (AnswerForm(schema_format(SCHEMA), reasoning=reasoning(budget=3)), "abc\n</thought>\n\n"),
            (AnswerForm(late=(LateForm("<call>", calls()),)), 'a<call>{"ok":true}</call><call>{"ok":'),
        ],
    )
    def test_go_on_by_themselves(self, speaker: Speaker, asked: AnswerForm, text: str) -> None:
        """At every token: each gets to where the original gets, and changes nothing about the others."""
        guide, draw = build(speaker, asked), random.Random(text)
        tokens, options, copies = list[int](), list[list[int]](), list[Guide]()
        left = text.encode()
        while left:
            options.append(speaker.options(guide))
            copies.append(guide.copy())
            fitting = [
                token
                for token in options[-1]
                if (one := speaker.compiler.vocabulary.bytes_of(token)) and left.startswith(one)
            ]
            tokens.append(draw.choice(fitting))
            guide.advance(tokens[-1])
            left = left[len(speaker.compiler.vocabulary.bytes_of(tokens[-1])) :]
        for start, copied in enumerate(copies):
            for place in range(start, len(tokens)):
                assert speaker.options(copied) == options[place]
                copied.advance(tokens[place])
            assert speaker.options(copied) == speaker.options(guide)
