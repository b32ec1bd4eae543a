from typing import Any

import pytest

from app.api.chat.messages import to_messages
from app.api.media.attachments import Attachments
from app.core.conversation import Message, ToolCall
from app.errors import InvalidRequest
from app.schemas.chat import ChatMessage

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}


def translated(**message: Any) -> Message:
    (one,) = to_messages([ChatMessage.model_validate(message)], Attachments())
    return one


def test_roles_and_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert translated(role="developer", content=parts) == Message("system", "ab")
    assert translated(role="user", content="x", name="Ada") == Message("user", "x", "Ada")


def test_an_assistant_brings_its_calls_and_thoughts_back() -> None:
    called = (ToolCall("call_1", "look", '{"x": 1}'),)
    assert translated(role="assistant", content=None, tool_calls=[CALL]) == Message("assistant", "", None, called)
    for name in ("reasoning_content", "reasoning"):
        message = translated(role="assistant", content="Yes.", tool_calls=[CALL], **{name: "Hm."})
        assert message == Message("assistant", "Yes.", None, called, reasoning="Hm.")
    refused = [{"type": "refusal", "refusal": "No."}]
    assert translated(role="assistant", refusal="No.").content == translated(role="assistant", content=refused).content


def test_arguments_may_be_the_object_itself() -> None:
    call = CALL | {"function": {"name": "look", "arguments": {"x": [1]}}}
    assert translated(role="assistant", tool_calls=[call]).tool_calls[0].arguments == '{"x":[1]}'


def test_a_result_says_which_call_it_answers() -> None:
    assert translated(role="tool", content="7", tool_call_id="call_1") == Message("tool", "7", tool_call_id="call_1")


@pytest.mark.parametrize(
    ("message", "param", "complaint"),
    [
        ({"role": "user"}, "messages[0].content", "missing"),
        ({"role": "assistant"}, "messages[0].content", "missing"),
        ({"role": "tool", "content": "7"}, "messages[0].tool_call_id", "tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls", "Only an assistant"),
        ({"role": "function", "name": "f", "content": "7"}, "messages[0].role", "'tool'"),
        ({"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, "messages[0].tool_calls[0].type", "custom"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url", "needs 'image_url'"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].input_audio", "needs"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0]", "type 'file'"),
        ({"role": "system", "content": [IMAGE]}, "messages[0].content[0]", "cannot be read in this message"),
        ({"role": "assistant", "content": [IMAGE]}, "messages[0].content[0]", "cannot be read in this message"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text", "needs 'text'"),
    ],
)
def test_what_is_refused_and_where(message: dict[str, Any], param: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as raised:
        translated(**message)
    assert raised.value.param == param
