import json
from typing import Any

import pytest

from app.api.media.attachments import Attachments
from app.api.responses.order import Input, to_conversation, to_toolbox
from app.api.responses.toolbox import Toolbox
from app.core.conversation import ToolUse
from app.errors import InvalidRequest
from app.schemas.responses import ResponseRequest
from tests.api.responses.recordings import TOOLS


def body_of(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate_json(json.dumps({"input": "x", "tools": TOOLS} | fields))


def toolbox() -> Toolbox:
    return to_toolbox(body_of(), Input())


def use_of(choice: Any = None, *, is_parallel: bool = True, tools: Any = TOOLS) -> ToolUse | None:
    body = body_of(tool_choice=choice, tools=tools)
    return to_toolbox(body, Input()).tool_use(body.tool_choice, is_parallel=is_parallel)


def test_the_model_is_told_of_those_it_can_call() -> None:
    use = use_of()
    assert use is not None
    assert [tool.name for tool in use.tools] == ["read", "patch", "mcp__disk__read", "mcp__disk__write"]
    assert [tool.strict for tool in use.tools] == [True, False, False, False]
    read, patch, disk_read, disk_write = use.tools
    assert read.parameters == '{"type":"object","properties":{}}'
    assert patch.description == "Changes files.\n\nThe input must match this lark grammar:\nstart: /.+/"
    assert json.loads(patch.parameters)["required"] == ["input"]
    assert disk_write.parameters == patch.parameters
    assert disk_write.description is None
    assert json.loads(disk_read.parameters)["type"] == "object"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("read", ("read", None, False)),
        ("patch", ("patch", None, True)),
        ("mcp__disk__read", ("read", "mcp__disk", False)),
        ("mcp__disk__write", ("write", "mcp__disk", True)),
        ("unknown", ("unknown", None, False)),
    ],
)
def test_the_client_hears_its_own_names(name: str, expected: tuple[str, str | None, bool]) -> None:
    offer = toolbox().find(name)
    assert (offer.name, offer.namespace, offer.is_custom) == expected


@pytest.mark.parametrize(("namespace", "name"), [("functions", "f"), ("a__", "a__f"), ("a", "a__f")])
def test_a_namespace_is_a_prefix(namespace: str, name: str) -> None:
    tools = [{"type": "namespace", "name": namespace, "description": "", "tools": [{"type": "function", "name": "f"}]}]
    use = use_of(tools=tools)
    assert use is not None
    assert [tool.name for tool in use.tools] == [name]
    offer = to_toolbox(body_of(tools=tools), Input()).find(name)
    assert (offer.name, offer.namespace) == ("f", namespace)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", None, True)),
        ("auto", ("auto", None, True)),
        ("none", ("none", None, True)),
        ("required", ("required", None, True)),
        ({"type": "function", "name": "read"}, ("required", ("read",), False)),
        ({"type": "custom", "name": "patch"}, ("required", ("patch",), False)),
        ({"type": "function", "name": "read", "namespace": "mcp__disk"}, ("required", ("mcp__disk__read",), False)),
        ({"type": "custom", "name": "write"}, ("required", ("mcp__disk__write",), False)),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "custom", "name": "patch"},
                    {"type": "web_search"},
                    {"type": "custom", "name": "patch"},
                ],
            },
            ("required", ("patch",), True),
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "mcp__disk"}]},
            ("auto", ("mcp__disk__read", "mcp__disk__write"), True),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, ("none", (), True)),
    ],
)
def test_choices(choice: Any, expected: tuple[str, Any, bool]) -> None:
    use = use_of(choice)
    assert use is not None
    assert (use.choice, use.allowed, use.is_parallel) == expected


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_a_callable_tool_there_is_nothing_to_choose(choice: Any) -> None:
    assert use_of(choice, tools=[{"type": "web_search"}]) is None
    assert use_of(choice, tools=None) is None


@pytest.mark.parametrize(
    ("choice", "tools", "param"),
    [
        ("required", [{"type": "web_search"}], "tool_choice"),
        ({"type": "function", "name": "unknown"}, TOOLS, "tool_choice"),
        ({"type": "function", "name": "read", "namespace": "other"}, TOOLS, "tool_choice"),
        ({"type": "function"}, TOOLS, "tool_choice.name"),
        ({"type": "web_search_preview"}, TOOLS, "tool_choice"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}, TOOLS, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}, TOOLS, "tool_choice"),
        (None, [TOOLS[0], TOOLS[0]], "tools"),
    ],
)
def test_what_cannot_be_chosen_is_refused(choice: Any, tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        use_of(choice, tools=tools)
    assert caught.value.param == param


def test_one_call_at_once_where_that_is_asked_for() -> None:
    body = body_of(parallel_tool_calls=False)
    given = Input()
    assert body.tools is not None
    body = body.model_copy(update={"instructions": "x"})
    use = to_conversation(body, given, to_toolbox(body, given), Attachments()).tools
    assert use is not None
    assert not use.is_parallel
