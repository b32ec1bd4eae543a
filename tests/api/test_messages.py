import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.bodies import _explained
from app.api.media.attachments import Attachments
from app.api.messages.routes import to_conversation
from app.core.conversation import Effort, Reasoning, Tool, ToolUse
from app.core.output_format import JsonSchema
from app.core.requests import Sampling
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.messages import MessagesRequest
from tests.fixtures.message_bodies import (
    CACHED,
    CALL,
    CALLED,
    PING,
    SCHEMA,
    assistant,
    generation,
    result,
    text,
    thought,
    user,
)


def tools(**fields: object) -> ToolUse | None:
    body = {"max_tokens": 99, "messages": [user(text("hello"))], **fields}
    return to_conversation(MessagesRequest.model_validate_json(json.dumps(body)), Attachments()).tools


class TestThinking:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, Reasoning()),
            ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(True, None, 2048)),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, Reasoning(True, "low")),
            ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, Reasoning(False)),
            ({"output_config": {"effort": "high"}}, Reasoning(None, "high")),
        ],
    )
    def test_asks_the_model_to_think(self, fields: dict[str, Any], expected: Reasoning) -> None:
        body = MessagesRequest.model_validate({"max_tokens": 9, "messages": [user(text("x"))], **fields})
        assert to_conversation(body, Attachments()).reasoning == expected

    @pytest.mark.parametrize(("effort", "expected"), [("medium", "medium"), ("xhigh", "xhigh"), ("max", "xhigh")])
    def test_asks_for_no_more_effort_than_there_is(self, effort: str, expected: Effort) -> None:
        body = {"max_tokens": 9, "messages": [user(text("x"))], "output_config": {"effort": effort}}
        assert to_conversation(MessagesRequest.model_validate(body), Attachments()).reasoning.effort == expected


class TestTools:
    def test_are_told_to_the_model(self) -> None:
        fields = {"description": "Look.", "strict": True, "type": "custom", "eager_input_streaming": True}
        look = {"name": "mcp__a.b__look", "input_schema": SCHEMA, "input_examples": [{"z": 1}], **fields, **CACHED}
        schema = '{"type":"object","properties":{"z":{},"a":{}},"examples":[{"z":1}]}'
        assert tools(tools=[look, PING]) == ToolUse(
            (Tool("mcp__a.b__look", "Look.", schema, strict=True), Tool("ping", None, '{"type":"object"}'))
        )
        assert tools(tools=[]) is None

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            (None, ("auto", None, True)),
            ({"type": "auto"}, ("auto", None, True)),
            ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None, False)),
            ({"type": "any"}, ("required", None, True)),
            ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
            ({"type": "tool", "name": "ping"}, ("required", ("ping",), False)),
            ({"type": "none"}, ("none", None, True)),
        ],
    )
    def test_may_or_must_be_called(self, choice: object, expected: tuple[object, ...]) -> None:
        use = tools(tools=[PING], tool_choice=choice)
        assert use is not None
        assert (use.choice, use.allowed, use.is_parallel) == expected

    def test_that_are_deferred_wait_until_they_are_found(self) -> None:
        deferred = [{"name": name, "input_schema": {}, "defer_loading": True} for name in ("read", "write")]
        assert tools(tools=deferred) is None
        found = user(result([{"type": "tool_reference", "tool_name": "write"}]))
        body = {"max_tokens": 9, "messages": [CALLED, found], "tools": [PING, *deferred]}
        asked = to_conversation(MessagesRequest.model_validate(body), Attachments())
        assert asked.tools is not None
        assert [tool.name for tool in asked.tools.tools] == ["ping", "write"]
        assert asked.messages[-1].content == "The tool write can be called now."


class TestFields:
    def test_say_how_the_answer_is_drawn(self) -> None:
        drawn = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["\n\nHuman:", "END"]}
        about = {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "stream": True,
            **CACHED,
            "anthropic_version": "x",
        }
        asked = generation(max_tokens=32_000, **drawn, **about)
        assert asked.sampling == Sampling(temperature=0.5, top_p=0.9, top_k=40)
        assert (asked.max_tokens, asked.stop) == (32_000, ("\n\nHuman:", "END"))
        assert asked == generation(max_tokens=32_000, **drawn)

    @pytest.mark.parametrize("place", ["output_config", "output_format"])
    def test_say_what_form_the_answer_has(self, place: str) -> None:
        asked = {"type": "json_schema", "schema": SCHEMA}
        fields = {"output_config": {"format": asked}} if place == "output_config" else {"output_format": asked}
        assert generation(**fields).output_format == JsonSchema(json.dumps(SCHEMA, separators=(",", ":")), strict=True)

    def test_that_ask_for_nothing_are_accepted(self) -> None:
        nothing = {"container": None, "mcp_servers": [], "context_management": {"edits": []}, "speed": "standard"}
        more = {"inference_geo": "global", "diagnostics": {"previous_message_id": None}, "output_config": {}}
        assert generation(**nothing, **more, tools=[], tool_choice=None, thinking=None) == generation()


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
KEPT_IMAGE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
DOCUMENT = {"type": "document"}
IN_DOCUMENT = "messages[0].content[0].source.content[0]"
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [user(text("x"), KEPT_IMAGE)]}, "messages[0].content[1].source"),
        ({"messages": [CALLED, user(result([KEPT_IMAGE]))]}, "messages[1].content[0].content[0].source"),
        ({"messages": [assistant(IMAGE)]}, "messages[0].content[0]"),
        ({"messages": [user(DOCUMENT | {"source": {"type": "content", "content": [IMAGE]}})]}, IN_DOCUMENT),
        ({"messages": [user(PDF)]}, "messages[0].content[0].source"),
        ({"messages": [user(CALL)]}, "messages[0].content[0]"),
        ({"messages": [user(thought("x"))]}, "messages[0].content[0]"),
        ({"messages": [CALLED, assistant(result("x"))]}, "messages[1].content[0]"),
        ({"messages": [user(text("x")), assistant({"type": "server_tool_use"})]}, "messages[1].content[0]"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url", "url": "x", "name": "y"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [PING, {"type": "bash_20250124", "name": "bash"}]}, "tools[1].type"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "tools[0].type"),
        ({"tools": [PING | {"allowed_callers": ["code_execution_20260120"]}]}, "tools[0].allowed_callers"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(fields)
    assert isinstance(error, UnsupportedField)
    assert (error.param, error.message.startswith(f"'{param}' is not supported")) == (param, True)


KEEP = {"type": "thinking_turns", "value": 0}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [user(result("x"))]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [CALLED, user(result("x") | {"tool_use_id": "other"})]}, "messages[1].content[0].tool_use_id"),
        ({"messages": [user(result("x")), CALLED]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [user({"type": "document", "source": {"type": "text"}})]}, "messages[0].content[0].source.data"),
        ({"messages": [user({"type": "image", "source": {"type": "base64"}})]}, "messages[0].content[0].source.data"),
        ({"messages": [user({"type": "image", "source": {"type": "url"}})]}, "messages[0].content[0].source.url"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        (
            {"messages": [assistant(thought("", "thinking:VGhl!")), user(text("x"))]},
            "messages[0].content[0].signature",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop_sequences": ["x", ""]}, "stop_sequences[1]"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "x", "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
        ({"tools": [PING, PING]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [PING], "tool_choice": {"type": "tool", "name": "pong"}}, "tool_choice"),
        ({"tools": [PING], "tool_choice": {"type": "tool"}}, "tool_choice"),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": KEEP}]}},
            "context_management.edits[0].keep",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"const": float("nan")}}}},
            "output_config.format.schema",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(fields)
    assert not isinstance(error, UnsupportedField)
    assert error.param == param


def refusal(fields: dict[str, Any]) -> InvalidRequest:
    """What a client is told, by the schema or by the translation."""
    try:
        generation(**fields)
    except ValidationError as error:
        return _explained(error)
    except InvalidRequest as error:
        return error
    raise AssertionError("it was accepted")
