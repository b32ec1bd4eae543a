"""Tools through the Responses API: the model of random weights calls where it must."""

from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import ResponseCustomToolCall, ResponseFunctionToolCall

from tests.e2e.processes import ServerProcess
from tests.e2e.responses.asking import RESPONSES, end_of, refusal

PLACE = {"type": "string", "enum": ["Paris", "Rome"]}
PARAMETERS = {"type": "object", "properties": {"place": PLACE}, "required": ["place"], "additionalProperties": False}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
PATCH: Any = {"type": "custom", "name": "patch", "description": "Changes files."}
DISK: Any = {"type": "namespace", "name": "mcp__disk", "description": "A disk.", "tools": [WEATHER, PATCH]}
HOSTED: Any = [{"type": "web_search"}, {"type": "image_generation"}, {"type": "tool_search"}]
ASKED: dict[str, Any] = {"model": "x", "input": "hello", "max_output_tokens": 400, "temperature": 1}


def ask_with(**fields: Any) -> dict[str, Any]:
    return ASKED | fields


@pytest.mark.parametrize("streams", [False, True])
def test_a_function_is_called_and_answered(client: OpenAI, streams: bool) -> None:
    asked = ask_with(tools=[WEATHER, *HOSTED], tool_choice={"type": "function", "name": "weather"})
    if streams:
        events = list(client.responses.create(**asked, stream=True))
        reply = end_of(events)
        kinds = [event.type.removeprefix("response.") for event in events]
        assert kinds[:3] == ["created", "in_progress", "output_item.added"]
        assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
        assert set(kinds[3:-3]) == {"function_call_arguments.delta"}
    else:
        reply = client.responses.create(**asked)
    (call,) = reply.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.namespace, call.status) == ("weather", None, "completed")
    assert call.arguments in ('{"place":"Paris"}', '{"place":"Rome"}')
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    brief: dict[str, Any] = {"model": "x", "tools": [WEATHER], "max_output_tokens": 5, "temperature": 0}
    answer = client.responses.create(**brief, input=[output], previous_response_id=reply.id)
    assert answer.output_text
    items = client.responses.input_items.list(answer.id, order="asc").data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]
    # The same as when the client itself brings everything.
    spoken: list[Any] = [{"role": "user", "content": "hello"}, call.to_dict(), output]
    assert client.responses.create(**brief, input=spoken).output_text == answer.output_text


def test_a_custom_tool_is_given_any_text(client: OpenAI) -> None:
    asked = ask_with(tools=[WEATHER, PATCH], tool_choice={"type": "custom", "name": "patch"})
    events = list(client.responses.create(**asked, stream=True))
    (call,) = end_of(events).output
    assert isinstance(call, ResponseCustomToolCall)
    assert call.name == "patch"
    told = "".join(event.delta for event in events if event.type == "response.custom_tool_call_input.delta")
    done = [event.input for event in events if event.type == "response.custom_tool_call_input.done"]
    assert [told] == done == [call.input]
    output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
    spoken: list[Any] = [{"role": "user", "content": "hello"}, call.to_dict(), output]
    assert client.responses.create(**ask_with(input=spoken, max_output_tokens=3)).status == "incomplete"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "function", "name": "weather"}, ("function_call", "weather")),
        ({"type": "custom", "name": "patch"}, ("custom_tool_call", "patch")),
    ],
)
def test_tools_of_a_namespace_are_called_by_their_own_names(
    client: OpenAI, choice: Any, expected: tuple[str, str]
) -> None:
    reply = client.responses.create(**ASKED, tools=[DISK], tool_choice=choice)
    (call,) = [item.to_dict() for item in reply.output]
    assert (call["type"], call["name"], call["namespace"]) == (*expected, "mcp__disk")
    assert [tool.type for tool in reply.tools] == ["namespace"]


def test_one_call_at_most_where_that_is_asked_for(client: OpenAI) -> None:
    reply = client.responses.create(**ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    assert [item.type for item in reply.output] == ["function_call"]
    assert reply.parallel_tool_calls is False


def test_tools_that_may_be_called_are_those_that_are(client: OpenAI) -> None:
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "patch"}]}
    reply = client.responses.create(**ASKED, tools=[WEATHER, PATCH], tool_choice=allowed, parallel_tool_calls=False)
    assert [item.type for item in reply.output] == ["custom_tool_call"]


def test_a_call_that_is_cut_off_is_incomplete(client: OpenAI) -> None:
    asked = ask_with(max_output_tokens=14, tool_choice="required")
    reply = client.responses.create(**asked, tools=[WEATHER])
    assert reply.status == "incomplete"
    assert [item.to_dict().get("status") for item in reply.output] in ([], ["incomplete"])
    # What nobody made needs no answer.
    assert client.responses.create(**ask_with(max_output_tokens=1), previous_response_id=reply.id).output


def test_hosted_tools_alone_change_nothing(client: OpenAI, server: ServerProcess) -> None:
    asked = ask_with(max_output_tokens=9, temperature=0)
    assert client.responses.create(**asked, tools=HOSTED).output_text == client.responses.create(**asked).output_text
    assert refusal(server, RESPONSES, **asked, tools=HOSTED, tool_choice="required") == (400, None, "tool_choice")
