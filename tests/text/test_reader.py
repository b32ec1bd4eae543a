import json

import pytest

from app.text.families import FAMILIES
from app.text.pieces import CallArguments, CallEnded, CallStarted, Content, Piece
from app.text.reader import MarkupReader
from app.text.source import Source
from tests.text.corpus_adapter import fold, read
from tests.text.reading import CALL, reader, result


def content(text: str, family: str = "qwen3") -> str:
    return result(text, family)["content"]


class TestStreaming:
    def test_prose_comes_at_once(self) -> None:
        one = reader()
        assert one.push("Hello") == [Content("Hello", 0)]
        assert one.push(" there") == [Content(" there", 5)]
        assert one.finish() == []

    def test_only_what_may_be_a_marker_waits(self) -> None:
        one = reader()
        assert one.push("a <too") == [Content("a", 0)]
        assert one.push("th") == [Content(" <tooth", 1)]

    def test_the_name_comes_first_and_arguments_as_they_come(self) -> None:
        one = reader()
        assert one.push('<tool_call>\n{"name": "write", "arguments": ') == []
        assert one.push('{"te') == [CallStarted("write", 0), CallArguments('{"te')]
        assert one.push('xt": "a long') == [CallArguments('xt": "a long')]
        assert one.push(' text"}') == [CallArguments(' text"}')]
        assert one.push("}") == [CallEnded(67)]
        assert one.push("\n</tool_call>") == []
        assert one.finish() == []

    @pytest.mark.parametrize(
        ("family", "start"),
        [
            ("qwen3", '<tool_call>\n{"name": "write", "arguments": {"text": "'),
            ("qwen3-coder", "<tool_call>\n<function=write>\n<parameter=text>\n"),
            ("glm4.5", "<tool_call>write\n<arg_key>text</arg_key>\n<arg_value>"),
            ("gemma4", '<|tool_call>call:write{text:<|"|>'),
            ("lfm2", "<|tool_call_start|>[write(text='"),
            ("minimax-m3", ']<]minimax[>[<invoke name="write">]<]minimax[>[<text>'),
            ("gpt-oss", '<|channel|>commentary to=functions.write <|constrain|>json<|message|>{"text": "'),
        ],
    )
    def test_a_long_text_comes_in_parts_in_every_notation(self, family: str, start: str) -> None:
        one = reader(family)
        assert CallStarted in map(type, one.push(start))
        (piece,) = one.push("one ")
        assert piece in (CallArguments("one "), CallArguments('"one '))
        assert one.push("two ") == [CallArguments("two ")]

    def test_arguments_before_the_name_wait_for_it(self) -> None:
        one = reader()
        assert one.push('<tool_call>{"arguments": {"text": "a"}, "name": "wri') == []
        started, arguments, ended = one.push('te"}')
        assert (started, arguments) == (CallStarted("write", 0), CallArguments('{"text": "a"}'))
        assert isinstance(ended, CallEnded)

    def test_says_when_it_is_in_reasoning(self) -> None:
        one = reader(is_open=True)
        assert one.is_reasoning
        one.push("Hm.</think>")
        assert not one.is_reasoning
        assert not reader().is_reasoning


class TestWhiteSpace:
    def test_of_a_plain_answer_is_kept(self) -> None:
        assert content("\n\n Hello.\n\n") == "\n\n Hello.\n\n"
        assert content("  \n") == "  \n"

    def test_beside_markup_is_dropped(self) -> None:
        assert result("\n<think>\n Hm. \n</think>\n\n Hello.") == {
            "content": "Hello.",
            "reasoning": "Hm.",
            "tool_calls": [],
        }
        assert content(f"Hello. \n{CALL}\n") == "Hello."

    def test_between_texts_around_a_call_is_what_is_nearest_to_the_second(self) -> None:
        assert content(f"One.\n{CALL}\n\nTwo.") == "One.\n\nTwo."
        assert content(f"One.\n{CALL}Two.") == "One.\nTwo."
        assert content(f"One.{CALL}Two.") == "One.Two."


class TestReasoning:
    def test_that_the_prompt_opened_goes_on(self) -> None:
        assert result("Hm.\n</think>\nHi.", is_open=True) == {"content": "Hi.", "reasoning": "Hm.", "tool_calls": []}
        assert result("Never closed \n", is_open=True)["reasoning"] == "Never closed \n"

    def test_opened_again_is_opened_once(self) -> None:
        assert result("<think>\nHm.</think>Hi.", is_open=True)["reasoning"] == "Hm."

    def test_opens_beside_markup_only(self) -> None:
        text = "Put it in <think> and </think>."
        assert content(text) == text
        assert result(f"<think>A</think>{CALL}<think>B</think>C")["reasoning"] == "AB"

    def test_closed_without_having_been_opened_is_not_shown_at_the_start(self) -> None:
        assert content("</think>\n\nHello.") == "Hello."

    def test_opens_wherever_a_header_says_so(self) -> None:
        text = "<|channel|>final<|message|>Hi<|channel|>analysis<|message|>hm<|channel|>final<|message|> there"
        assert result(text, "gpt-oss") == {"content": "Hi there", "reasoning": "hm", "tool_calls": []}

    def test_has_calls_of_offered_tools_only(self) -> None:
        assert result(f"<think>Now {CALL}\nthen.</think>")["tool_calls"][0]["name"] == "ping"
        unknown = CALL.replace("ping", "pong")
        assert result(f"<think>Now {unknown} then.</think>Hi.")["reasoning"] == f"Now {unknown} then."


class TestBrokenCalls:
    @pytest.mark.parametrize(
        "text",
        [
            "<tool_call>",
            "<tool_call>\nping\n</tool_call>",
            '<tool_call>{"name": "a b", "arguments": {}}</tool_call>',
            '<tool_call>{"name": "ping", "arguments": [1]}</tool_call>',
            '<tool_call>{"name": "write", "arguments": {"n": }}</tool_call>',
            '<tool_call>{"name": "write", "arguments": {"text": "open</tool_call>',
            '<tool_call>{"name": "write", "arguments": {"n": 1} "x": 2}</tool_call>',
            '<tool_call>{"name": "write", "arguments": {"n": 1}, "parameters": {"n": 2}}</tool_call>',
            '<tool_call>{"nam',
            "<tool_call>[]</tool_call>",
        ],
    )
    def test_are_text(self, text: str) -> None:
        assert result(f"Look: {text}") == {"content": f"Look: {text}", "reasoning": "", "tool_calls": []}

    def test_that_have_started_are_taken_back_by_their_text(self) -> None:
        broken = '<tool_call>{"name": "write", "arguments": {"n": 1'
        one = reader()
        assert [type(piece) for piece in one.push(broken)] == [CallStarted, CallArguments]
        pieces = [piece for piece in one.push(" x") if isinstance(piece, Content)]
        assert pieces[0].start == 0
        assert "".join(piece.text for piece in pieces) == f"{broken} x"

    def test_do_not_keep_the_next_from_being_read(self) -> None:
        got = result(f'<tool_call>{{"name": "write", "arguments": {{oh {CALL}')
        assert [call["name"] for call in got["tool_calls"]] == ["ping"]
        assert got["content"] == '<tool_call>{"name": "write", "arguments": {oh'

    def test_cut_off_are_not_whole(self) -> None:
        pieces = read(reader(), [f'{CALL}<tool_call>{{"name": "write", "arguments": {{"text": "abc\\'])
        assert [type(piece) for piece in pieces[-2:]] == [CallStarted, CallArguments]
        assert fold(pieces)["tool_calls"][1] == {"name": "write", "arguments": '{"text": "abc', "incomplete": True}

    def test_missing_brackets_are_added_where_the_marker_closes(self) -> None:
        assert result('<tool_call>{"name": "write", "arguments": {"text": "a"\n</tool_call>')["tool_calls"] == [
            {"name": "write", "arguments": '{"text": "a"\n}', "incomplete": False}
        ]

    def test_too_many_brackets_are_dropped(self) -> None:
        assert result(CALL.replace("{}}", "{}}}") + " Done.") == {
            "content": "Done.",
            "reasoning": "",
            "tool_calls": [{"name": "ping", "arguments": "{}", "incomplete": False}],
        }

    def test_over_and_over_are_not_read_again_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each of these fails at the end of the text; it is not read once for each."""
        num_read_again = 0
        rewind = Source.rewind

        def counted(source: Source, place: int) -> None:
            nonlocal num_read_again
            num_read_again += source.place - place
            rewind(source, place)

        monkeypatch.setattr(Source, "rewind", counted)
        text = "<function=write>\n<parameter=text>x" * 3000 + "</function> and more"
        assert content(text, "qwen3-coder") == text
        assert num_read_again < 20 * len(text)


class TestSpecialTokens:
    SPECIAL = frozenset({"<tool_call>", "</tool_call>", "<think>", "</think>"})

    def pieces(self, *chunks: str) -> list[Piece]:
        return read(reader(special=self.SPECIAL), chunks, self.SPECIAL)

    def test_are_the_only_markers(self) -> None:
        body = '\n{"name": "ping", "arguments": {}}\n'
        assert fold(self.pieces("<tool_call>", body, "</tool_call>"))["tool_calls"][0]["name"] == "ping"
        assert fold(self.pieces("<tool_", "call>", body, "</tool", "_call>"))["content"] == CALL

    def test_count_anywhere(self) -> None:
        assert fold(self.pieces("Well ", "<think>", "hm", "</think>", "so")) == {
            "content": "Well so",
            "reasoning": "hm",
            "tool_calls": [],
        }

    def test_in_a_string_are_part_of_it(self) -> None:
        got = fold(self.pieces("<tool_call>", '{"name": "write", "arguments": {"text": "a', "</tool_call>", 'b"}}'))
        assert json.loads(got["tool_calls"][0]["arguments"]) == {"text": "a</tool_call>b"}

    def test_make_a_marker_of_several(self) -> None:
        family, special = FAMILIES["kimi-k3"], frozenset({"<|open|>", "<|close|>", "<|sep|>"})
        genuine = ["hm", "<|close|>", "think", "<|sep|>", "Hi"]
        spelled = ["hm", "<|clo", "se|>think", "<|sep|>", "Hi"]
        both = [
            fold(read(MarkupReader(family, starts_in_reasoning=True, special=special), chunks, special))
            for chunks in (genuine, spelled)
        ]
        assert [one["reasoning"] for one in both] == ["hm", "".join(spelled)]


class TestNoise:
    def test_at_the_ends_is_dropped(self) -> None:
        assert content("<|START_RESPONSE|>Hello.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "command-r7b") == "Hello."

    def test_between_words_is_text(self) -> None:
        text = "It writes <|END_RESPONSE|> then."
        assert content(text, "command-r7b") == text


class TestAmbiguousFormats:
    def test_count_at_the_start_and_for_offered_tools(self) -> None:
        call = '{"name": "ping", "parameters": {}}'
        assert result(call, "llama3-json")["tool_calls"][0]["name"] == "ping"
        for text in (f"See {call}", call.replace("ping", "pong"), '{"answer": 1}', "[1, 2]"):
            assert result(text, "llama3-json") == {"content": text, "reasoning": "", "tool_calls": []}
        assert result("[ping()]", "llama3.2-pythonic")["tool_calls"][0]["name"] == "ping"
        assert content("[pong()]", "llama3.2-pythonic") == "[pong()]"

    def test_do_not_keep_other_json_back(self) -> None:
        one = reader("llama3-json")
        assert one.push('{"answer') == []
        assert one.push('": ') == [Content('{"answer":', 0)]


class TestCuts:
    """Texts of which a part looks like something else."""

    @pytest.mark.parametrize(
        ("family", "text", "expected"),
        [
            ("xlam", '```json\n[{"name": "ping", "arguments": {}}]\n```', ""),
            ("xlam", "```python\nping()\n```", "```python\nping()\n```"),
            ("gpt-oss", "<|start|>\n<|channel|>final<|message|>Hi", "<|start|>\nHi"),
            ("gpt-oss", f"<|channel|>{'final' * 49}<|message|>Hi", "Hi"),
            ("gpt-oss", f"<|channel|>{'final' * 50}<|message|>Hi", f"<|channel|>{'final' * 50}<|message|>Hi"),
        ],
    )
    def test_do_not_matter(self, family: str, text: str, expected: str) -> None:
        assert fold(read(reader(family), text))["content"] == expected
        assert content(text, family) == expected
