from typing import Any

import pytest

from app.api.tools import to_tool_use
from app.core.conversation import Tool, ToolUse
from app.errors import InvalidRequest
from app.schemas.tools import ToolFields

LOOK = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
PING = {"type": "function", "function": {"name": "ping"}}
TOOLS = (Tool("look", "Look.", '{"type":"object"}'), Tool("ping"))


def tool_use(**body: Any) -> ToolUse | None:
    return to_tool_use(ToolFields.model_validate(body))


def test_no_tools_are_none() -> None:
    assert tool_use() is None
    assert tool_use(tools=[], tool_choice="auto", parallel_tool_calls=True) is None


def test_nested_and_flat_tools_are_the_same() -> None:
    flat = [{"type": "function", **LOOK["function"]}, {"type": "function", "name": "ping"}]  # type: ignore[dict-item]
    assert tool_use(tools=[LOOK, PING]) == tool_use(tools=flat) == ToolUse(TOOLS)


def test_a_schema_keeps_the_order_of_its_keys() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    use = tool_use(tools=[{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}])
    assert use is not None
    assert use.tools[0].parameters.index('"z"') < use.tools[0].parameters.index('"a"')
    assert use.tools[0].strict


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolUse(TOOLS)),
        ("none", ToolUse(TOOLS, "none")),
        ("required", ToolUse(TOOLS, "required")),
        ({"type": "function", "function": {"name": "ping"}}, ToolUse(TOOLS, "required", ("ping",), is_parallel=False)),
        ({"type": "function", "name": "ping"}, ToolUse(TOOLS, "required", ("ping",), is_parallel=False)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [PING]}},
            ToolUse(TOOLS, "required", ("ping",)),
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"tools": [PING, {"type": "function", "name": "look"}]}},
            ToolUse(TOOLS, "auto", ("ping", "look")),
        ),
    ],
)
def test_choices(choice: object, expected: ToolUse) -> None:
    assert tool_use(tools=[LOOK, PING], tool_choice=choice) == expected


def test_one_call_at_a_time() -> None:
    assert tool_use(tools=[LOOK, PING], parallel_tool_calls=False) == ToolUse(TOOLS, is_parallel=False)


@pytest.mark.parametrize(
    ("body", "param", "complaint"),
    [
        ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
        ({"tools": [PING, PING]}, "tools", "two tools named 'ping'"),
        ({"tools": [PING], "tool_choice": {"type": "function", "name": "pong"}}, "tool_choice", "not among"),
        ({"tools": [PING], "tool_choice": {"type": "function"}}, "tool_choice", "must name"),
        ({"tools": [PING], "tool_choice": {"type": "custom", "name": "ping"}}, "tool_choice", "'custom'"),
        ({"tools": [PING], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "missing"),
        (
            {"tools": [PING], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}},
            "tool_choice",
            "allows no tool",
        ),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "'custom'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ],
)
def test_what_is_refused_and_where(body: dict[str, Any], param: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as raised:
        tool_use(**body)
    assert raised.value.param == param
