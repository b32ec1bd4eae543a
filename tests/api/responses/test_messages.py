import json
from typing import Any

import pytest

from app.api.media.attachments import Attachments
from app.api.responses.items import completed, item_json, read_item
from app.api.responses.messages import to_messages
from app.api.responses.reasoning import sealed, unsealed
from app.core.conversation import Message, ToolCall
from app.core.store_objects import StoredObject
from app.errors import InvalidRequest
from app.schemas.responses import ResponseRequest
from app.schemas.responses_items import ItemReference, KeptItem


def items_of(*items: Any) -> list[KeptItem]:
    body = ResponseRequest.model_validate_json(json.dumps({"input": items}))
    assert isinstance(body.input, list)
    return [item for item in body.input if not isinstance(item, ItemReference)]


def messages_of(*items: Any) -> list[Message]:
    """The messages of items; the same before and after they were kept."""
    given = items_of(*items)
    kept = [read_item(StoredObject("item", str(one.id), item_json(one), 0)) for one in completed(given)]
    placed = [[(f"input[{index}]", item) for index, item in enumerate(some)] for some in (given, kept)]
    before, after = (to_messages(items, Attachments()) for items in placed)
    assert before == after
    return before


def refusal(*items: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        to_messages([(f"input[{index}]", item) for index, item in enumerate(items_of(*items))], Attachments())
    assert caught.value.param is not None
    return caught.value.param


def said(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def call(call_id: str, name: str = "f", arguments: str = "{}", **fields: str) -> dict[str, object]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **fields}


def output(call_id: str, content: object = "done") -> dict[str, object]:
    return {"type": "function_call_output", "call_id": call_id, "output": content}


def thought(**fields: object) -> dict[str, object]:
    return {"type": "reasoning", "summary": [], **fields}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([said("user", "a"), said("system", "b")], [Message("user", "a"), Message("system", "b")]),
        ([said("developer", "a") | {"type": "message"}], [Message("system", "a")]),
        ([said("assistant", "a"), said("assistant", "b")], [Message("assistant", "a"), Message("assistant", "b")]),
        (
            [said("user", [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}])],
            [Message("user", "ab")],
        ),
        (
            [said("assistant", [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}])],
            [Message("assistant", "ab")],
        ),
        (
            [said("assistant", "a") | {"phase": "commentary", "status": "completed", "id": "msg_1"}],
            [Message("assistant", "a")],
        ),
        ([said("system", "x-anthropic-billing-header: 1;\nBe brief.")], [Message("system", "Be brief.")]),
        ([{"type": "web_search_call", "id": "ws_1", "status": "completed"}, said("user", "a")], [Message("user", "a")]),
    ],
)
def test_messages_are_read(items: list[Any], expected: list[Message]) -> None:
    assert messages_of(*items) == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (
            [said("user", "q"), call("1"), call("2"), output("1", "x"), output("2", "y")],
            [
                Message("user", "q"),
                Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "f", "{}"))),
                Message("tool", "x", tool_call_id="1"),
                Message("tool", "y", tool_call_id="2"),
            ],
        ),
        (
            [call("1"), output("1"), call("2"), output("2")],
            [
                Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),)),
                Message("tool", "done", tool_call_id="1"),
                Message("assistant", "", tool_calls=(ToolCall("2", "f", "{}"),)),
                Message("tool", "done", tool_call_id="2"),
            ],
        ),
        (
            [
                thought(content=[{"type": "reasoning_text", "text": "hm"}]),
                said("assistant", "a"),
                call("1"),
                output("1"),
            ],
            [
                Message("assistant", "a", tool_calls=(ToolCall("1", "f", "{}"),), reasoning="hm"),
                Message("tool", "done", tool_call_id="1"),
            ],
        ),
        (
            [call("1"), said("assistant", "after"), output("1")],
            [
                Message("assistant", "after", tool_calls=(ToolCall("1", "f", "{}"),)),
                Message("tool", "done", tool_call_id="1"),
            ],
        ),
        (
            [call("1", namespace="mcp__a"), output("1", [{"type": "input_text", "text": "x"}])],
            [
                Message("assistant", "", tool_calls=(ToolCall("1", "mcp__a__f", "{}"),)),
                Message("tool", "x", tool_call_id="1"),
            ],
        ),
        (
            [
                {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": 'a "b"'},
                {"type": "custom_tool_call_output", "call_id": "1", "output": "ok"},
            ],
            [
                Message("assistant", "", tool_calls=(ToolCall("1", "patch", '{"input":"a \\"b\\""}'),)),
                Message("tool", "ok", tool_call_id="1"),
            ],
        ),
        # Nobody made a call that was cut off; where somebody answers it, somebody did.
        ([said("user", "q"), call("1", status="incomplete")], [Message("user", "q")]),
        (
            [call("1", arguments='{"a', status="incomplete"), output("1")],
            [
                Message("assistant", "", tool_calls=(ToolCall("1", "f", '{"a'),)),
                Message("tool", "done", tool_call_id="1"),
            ],
        ),
    ],
)
def test_turns_are_put_together(items: list[Any], expected: list[Message]) -> None:
    assert messages_of(*items) == expected


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        (thought(content=[{"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]), "ab"),
        (thought(encrypted_content=sealed("\u00e9a")), "\u00e9a"),
        (thought(content=[], encrypted_content="gAAAAAB", summary=[{"type": "summary_text", "text": "s"}]), "s"),
        (thought(encrypted_content="mlx1.AAAA"), None),
        (thought(content=None), None),
    ],
)
def test_thoughts_come_back(item: Any, reasoning: str | None) -> None:
    assert messages_of(item, said("assistant", "a")) == [Message("assistant", "a", reasoning=reasoning)]


def test_thoughts_that_led_to_nothing_are_left_out() -> None:
    item = thought(content=[{"type": "reasoning_text", "text": "hm"}])
    assert messages_of(said("user", "a"), item, said("user", "b")) == [Message("user", "a"), Message("user", "b")]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([said("user", [{"type": "input_image"}])], "input[0].content[0].image_url"),
        ([said("user", [{"type": "input_image", "file_id": "file-1"}])], "input[0].content[0].file_id"),
        ([said("user", [{"type": "input_audio"}])], "input[0].content[0].input_audio"),
        ([said("user", [{"type": "input_file", "file_data": "x"}])], "input[0].content[0]"),
        ([said("system", [{"type": "input_image", "image_url": "x"}])], "input[0].content[0]"),
        ([said("assistant", [{"type": "input_image", "image_url": "x"}])], "input[0].content[0]"),
        ([said("user", "a"), said("user", [{"type": "input_text"}])], "input[1].content[0].text"),
        ([said("assistant", [{"type": "refusal", "text": "a"}])], "input[0].content[0].refusal"),
        ([call("1"), output("1", [{"type": "input_file", "file_id": "x"}])], "input[1].output[0]"),
        ([call("1"), output("2")], "input[1].call_id"),
        ([output("1"), call("1")], "input[0].call_id"),
    ],
)
def test_what_cannot_be_read_is_named(items: list[Any], param: str) -> None:
    assert refusal(*items) == param


def test_items_are_completed_and_kept_as_they_came() -> None:
    given = items_of(
        said("user", "a") | {"extra": {"x": None}},
        said("assistant", [{"type": "text", "text": "b"}]) | {"id": "msg_x", "phase": "final_answer"},
        call("1") | {"id": "msg_x"},
        output("1", [{"type": "input_image", "image_url": "u"}]),
        thought(),
        {"type": "mcp_call", "server_label": "s", "status": "calling", "error": None},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "f", "parameters": {"default": None}}]},
    )
    kept = [json.loads(item_json(item)) for item in completed(given)]
    ids = [item.pop("id") for item in kept]
    assert [id_.partition("_")[0] for id_ in ids] == ["msg", "msg", "fc", "fco", "rs", "item", "item"]
    assert len(set(ids)) == len(ids)
    assert ids[1] == "msg_x"
    assert kept == [
        {
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "a"}],
            "extra": {"x": None},
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
            "phase": "final_answer",
        },
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "status": "completed"},
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"type": "input_image", "image_url": "u"}],
            "status": "completed",
        },
        {"type": "reasoning", "summary": []},
        {"type": "mcp_call", "server_label": "s", "status": "calling"},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "f", "parameters": {"default": None}}]},
    ]


@pytest.mark.parametrize("string", ["", "x", "mlx1.", "mlx1.!", "mlx1.eJw", "mlx2.eJzzSS0B", "mlx1.\u00e9"])
def test_strings_of_others_are_not_opened(string: str) -> None:
    assert unsealed(string) in (None, "")


@pytest.mark.parametrize("text", ["", "a", "\u4e16\U0001f680" * 1000])
def test_what_is_sealed_can_be_opened(text: str) -> None:
    assert unsealed(sealed(text)) == text
