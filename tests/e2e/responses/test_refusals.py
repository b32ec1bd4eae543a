"""What is wrong with a request is named."""

from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.responses.asking import FOX, RESPONSES, refusal
from tests.e2e.wire import Call


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": []}, "missing_required_parameter", "input"),
        ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content"),
        ({"input": [{"type": "strange"}]}, "invalid_value", "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "unsupported_parameter",
            "input[0].content[0]",
        ),
        ({"input": "x", "prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"input": "x", "temperature": 3}, "invalid_value", "temperature"),
        ({"input": "x", "max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"input": "x", "include": ["everything"]}, "invalid_value", "include[0]"),
        ({"input": "x", "metadata": {str(number): "x" for number in range(17)}}, "invalid_value", "metadata"),
        ({"input": "x", "tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
        ({"input": "x", "tool_choice": "required"}, None, "tool_choice"),
        ({"input": "x", "tool_choice": {"type": "file_search"}}, "unsupported_parameter", "tool_choice"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "missing_required_parameter", "text.format.name"),
        (
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "strange"}}}},
            None,
            "text.format",
        ),
        ({"input": FOX * 20_000}, "context_length_exceeded", "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, None, "input[0].content[0].text"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, None, "input[0].call_id"),
        ({"input": "x", "conversation": 5}, "invalid_value", "conversation"),
        ({"input": "x", "background": "yes"}, "invalid_value", "background"),
        (
            {"input": "x", "stream_options": {"include_obfuscation": True}},
            "unsupported_parameter",
            "stream_options.include_obfuscation",
        ),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_is_wrong_is_named(
    server: ServerProcess, fields: dict[str, Any], code: str | None, param: str, streams: bool
) -> None:
    assert refusal(server, **fields, stream=streams) == (400, code, param)


def test_errors_are_the_clients_own_classes(client: OpenAI) -> None:
    with pytest.raises(APIStatusError) as caught:
        client.responses.create(model="x", input="hello", temperature=3)
    assert (caught.value.status_code, caught.value.param) == (400, "temperature")
    assert caught.value.request_id


def test_what_codex_sends_is_taken(server: ServerProcess) -> None:
    """Tools of every kind, an opaque thought, nothing stored."""
    body = {
        "model": "any",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandboxed."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAAAA"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes?"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]},
        ],
        "tools": [{"type": "web_search", "external_web_access": False}, {"type": "local_shell"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "medium"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199b0e8",
        "client_metadata": {"x": "y"},
        "max_output_tokens": 5,
    }
    with Call(server, body, RESPONSES) as call:
        assert call.status == 200
        kinds = [event["type"] for event in call.chunks()]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")
