"""Calls through Anthropic's own client: a grammar makes even a model of random weights call as it must."""

from typing import Any

import pytest
from anthropic import Anthropic
from anthropic.types import Message, ToolUseBlock

from tests.e2e.messages.asking import GREEDY, HELLO, ask, prompt_tokens

CITIES = ["Paris", "Oslo"]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Say what the weather is like.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": CITIES}, "days": {"enum": [1, 7]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
NOW: dict[str, Any] = {
    "name": "now",
    "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
}
CHOICES: list[Any] = [
    {"type": "any", "disable_parallel_tool_use": True},
    {"type": "tool", "name": "get_weather"},
    {"type": "tool", "name": "now"},
]


def request(**fields: Any) -> dict[str, Any]:
    return {
        "model": "x",
        "messages": HELLO,
        "tools": [WEATHER, NOW],
        "max_tokens": 200,
        "extra_body": GREEDY,
        **fields,
    }


def call_of(message: Message) -> ToolUseBlock:
    (call,) = [block for block in message.content if isinstance(block, ToolUseBlock)]
    return call


@pytest.mark.parametrize("choice", CHOICES, ids=["any", "get_weather", "now"])
def test_a_call_that_must_be_made_is_made(client: Anthropic, choice: dict[str, Any]) -> None:
    reply = client.messages.create(**request(tool_choice=choice))
    call = call_of(reply)
    assert reply.stop_reason == "tool_use"
    assert call.name == choice.get("name", call.name)
    if call.name == "now":
        assert call.input == {}
    else:
        assert call.input["city"] in CITIES
        assert call.input["days"] in {1, 7}


@pytest.mark.parametrize("choice", CHOICES, ids=["any", "get_weather", "now"])
@pytest.mark.parametrize("max_tokens", [200, 12])
def test_a_stream_says_what_the_reply_says(client: Anthropic, choice: dict[str, Any], max_tokens: int) -> None:
    """Also where the call is cut off."""
    asked = request(tool_choice=choice, max_tokens=max_tokens)
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    # Ids are of one reply.
    same = [block.model_copy(update={"id": ""}).to_dict() for block in whole.content]
    assert [block.model_copy(update={"id": ""}).to_dict() for block in streamed.content] == same
    assert streamed.stop_reason == whole.stop_reason == ("tool_use" if max_tokens == 200 else "max_tokens")


def test_no_call_is_made_where_none_may_be(client: Anthropic) -> None:
    reply = client.messages.create(**request(tool_choice={"type": "none"}, max_tokens=30))
    assert {block.type for block in reply.content} == {"text"}
    assert prompt_tokens(reply) == prompt_tokens(ask(client))


def test_a_conversation_goes_on_with_the_result(client: Anthropic) -> None:
    first = client.messages.create(**request(tool_choice=CHOICES[1]))
    result = {"type": "tool_result", "tool_use_id": call_of(first).id, "content": [{"type": "text", "text": "Sunny."}]}
    messages = [*HELLO, first.to_param(), {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]}]
    second = client.messages.create(**request(messages=messages, max_tokens=9))
    assert prompt_tokens(second) > prompt_tokens(first)
    # What was read and said before is not read again.
    assert (second.usage.cache_read_input_tokens or 0) >= prompt_tokens(first) * 0.9


def test_tools_and_calls_are_counted(client: Anthropic) -> None:
    def count(**fields: Any) -> int:
        return client.messages.count_tokens(model="x", messages=HELLO, **fields).input_tokens

    assert count(tools=[WEATHER]) == prompt_tokens(client.messages.create(**request(tools=[WEATHER], max_tokens=1)))
    assert count() < count(tools=[NOW]) < count(tools=[WEATHER, NOW])
    assert count(tools=[WEATHER, NOW | {"defer_loading": True}]) == count(tools=[WEATHER])
