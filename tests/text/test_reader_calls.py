import json
from typing import Any

import pytest

from app.text.families import FAMILIES
from app.text.reader import MarkupReader
from tests.text.corpus_adapter import fold, read
from tests.text.reading import CALL, reader, result


class TestTools:
    def test_where_none_are_offered_markup_of_calls_is_text(self) -> None:
        for family in ("qwen3", "gpt-oss"):
            one = MarkupReader(FAMILIES[family], starts_in_reasoning=False)
            assert fold(read(one, [CALL])) == {"content": CALL, "reasoning": "", "tool_calls": []}

    def test_that_are_not_offered_are_passed_on_where_the_markup_is_certain(self) -> None:
        assert result(CALL.replace("ping", "pong"))["tool_calls"][0]["name"] == "pong"

    @pytest.mark.parametrize(
        ("text", "arguments"),
        [
            ('{"name": "ping"}', {}),
            ('{"name": "ping", "arguments": null}', {}),
            ('{"name": "ping", "arguments": " "}', {}),
            ('{"name": "write", "arguments": " {\\"text\\": \\"\\\\ud800\ud800\\"}"}', {"text": "??"}),
            ('{"name": "write", "arguments": "{\\"text\\": \\"a\\"}"}', {"text": "a"}),
            ("{'name': 'write', 'arguments': {'text': 'it\\'s \"a\"', 'n': None,},}", {"text": 'it\'s "a"', "n": None}),
            ('{"type": "function", "function": {"name": "write", "parameters": {"n": 1}}}', {"n": 1}),
            ('[{"name": "write", "arguments": {"text": "a\nb"}}]', {"text": "a\nb"}),
        ],
    )
    def test_calls_in_loose_json_are_read(self, text: str, arguments: dict[str, Any]) -> None:
        (call,) = result(f"<tool_call>{text}</tool_call>")["tool_calls"]
        assert json.loads(call["arguments"]) == arguments

    @pytest.mark.parametrize(
        ("family", "value", "expected"),
        [
            ("deepseek-v3.2", 'string="true">5', "5"),
            ("deepseek-v3.2", 'string="false">5', 5),
            ("kimi-k3", 'type="string"<|sep|>[1]', "[1]"),
            ("kimi-k3", 'type="array"<|sep|>[1]', [1]),
            ("gemma4", '<|"|>5<|"|>', "5"),
            ("gemma4", "5", 5),
        ],
    )
    def test_markup_that_tells_texts_from_other_values_decides(self, family: str, value: str, expected: object) -> None:
        """Where the schema says nothing."""
        calls = {
            "deepseek-v3.2": f'<｜DSML｜invoke name="ping"><｜DSML｜parameter name="x" {value}'
            "</｜DSML｜parameter></｜DSML｜invoke>",
            "kimi-k3": f'<|open|>call tool="ping" index="1"<|sep|><|open|>argument key="x" {value}'
            "<|close|>argument<|sep|><|close|>call<|sep|>",
            "gemma4": f"<|tool_call>call:ping{{x:{value}}}<tool_call|>",
        }
        (call,) = result(calls[family], family)["tool_calls"]
        assert json.loads(call["arguments"]) == {"x": expected}

    @pytest.mark.parametrize(
        ("family", "text"),
        [
            ("mistral-v13", '[TOOL_CALLS]write[CALL_ID]abc[ARGS]{"n": 1}'),
            ("mistral-v13", '[TOOL_CALLS]write{"n": 1}'),
            ("mistral-v13", '[TOOL_CALLS] [{"name": "write", "arguments": {"n": 1}}]'),
            ("kimi-k2", '<|tool_call_begin|> write:0 <|tool_call_argument_begin|> {"n": 1} <|tool_call_end|>'),
            ("kimi-k2", '<|tool_call_begin|>functions.write<|tool_call_argument_begin|>{"n": 1}<|tool_call_end|>'),
            (
                "deepseek-v3.1",
                '<｜tool▁call▁begin｜>function<｜tool▁sep｜>write\n```json\n{"n": 1}\n```<｜tool▁call▁end｜>',
            ),
            ("deepseek-v3", '<｜tool▁call▁begin｜>write<｜tool▁sep｜>{"n": 1}<｜tool▁call▁end｜>'),
            ("qwen3-coder", '<tool_call>\n{"name": "write", "arguments": {"n": 1}}\n</tool_call>'),
            ("qwen3-coder", "<tool_call><function=write><parameter=n>1</parameter></function></tool_call>"),
            ("gpt-oss", ' to=functions.write<|channel|>commentary json<|message|>{"n": 1}<|call|>'),
            ("gpt-oss", '<|channel|>analysis to=functions.write code<|message|>{"n": 1}<|call|>'),
            (
                "kimi-k3",
                '<|open|>call tool="write" index="1"<|sep|>'
                '<|open|>json type="object"<|sep|>{"n": 1}<|close|>json<|sep|><|close|>call<|sep|>',
            ),
            ("xlam", '```json\n[{"name": "write", "arguments": {"n": 1}}]\n```'),
            ("llama4-pythonic", "[write(n=1)]"),
            ("functionary-v3.2", 'write\n{"n": 1}'),
        ],
    )
    def test_a_familys_other_ways_are_read_too(self, family: str, text: str) -> None:
        call = {"name": "write", "arguments": '{"n": 1}', "incomplete": False}
        assert fold(read(reader(family), text)) == {"content": "", "reasoning": "", "tool_calls": [call]}

    def test_elements_inside_elements_are_objects_and_lists(self) -> None:
        sign = "]<]minimax[>["
        text = "".join(
            f"{sign}{tag}"
            for tag in (
                '<invoke name="ping">',
                *("<who>", "<name>Al ", "</name>", "<age>7", "</age>", "</who>"),
                *("<legs>\n", "<item>", "<to>LIS", "</to>", "</item>\n", "<item>", "</item>", "</legs>"),
                *("<list>", "<item>1", "</item>", "<item>a", "</item>", "</list>", "</invoke>"),
            )
        )
        (call,) = fold(read(reader("minimax-m3"), text))["tool_calls"]
        assert json.loads(call["arguments"]) == {
            "who": {"name": "Al ", "age": 7},
            "legs": [{"to": "LIS"}, ""],
            "list": [1, "a"],
        }

    def test_valid_json_is_passed_on_as_it_is(self) -> None:
        arguments = '{ "text" : "\\u00e9\\/\\n" ,\n "n":[1e5,-0.50, true]}'
        (call,) = result(f'<tool_call>{{"name": "write", "arguments": {arguments}}}</tool_call>')["tool_calls"]
        assert call["arguments"] == arguments
