"""Answers that the client has begun, in the protocols that know such a thing."""

import json
from typing import Any

import pytest

from app.api.chat import routes as chat
from app.api.media.attachments import Attachments
from app.api.messages import routes as messages
from app.core.conversation import Conversation
from app.errors import InvalidRequest
from app.schemas.chat import ChatCompletionRequest
from app.schemas.messages import MessagesRequest

HELLO = {"role": "user", "content": "hello"}
BEGUN = {"role": "assistant", "content": "Well, "}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING: dict[str, Any] = {**BEGUN, "tool_calls": [CALL]}


def of_chat(*turns: dict[str, Any], **fields: Any) -> Conversation:
    body = {"messages": turns, "continue_final_message": True, "reasoning_effort": "high"} | fields
    asked = ChatCompletionRequest.model_validate_json(json.dumps(body))
    prompt = chat.to_generation(asked, Attachments()).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def of_messages(*turns: dict[str, Any], **fields: Any) -> Conversation:
    body = {"model": "x", "max_tokens": 9, "messages": turns} | fields
    prompt = messages.to_generation(MessagesRequest.model_validate_json(json.dumps(body)), Attachments()).prompt
    assert isinstance(prompt, Conversation)
    return prompt


@pytest.mark.parametrize("of", [of_chat, of_messages])
def test_the_last_message_goes_on_without_thinking(of: Any) -> None:
    asked = of(HELLO, BEGUN)
    assert asked.continues_last
    assert asked.messages[-1].content == "Well, "
    assert asked.reasoning.is_enabled is False


def test_it_is_asked_for_in_chats_and_understood_in_messages() -> None:
    assert not of_chat(HELLO, BEGUN, continue_final_message=False).continues_last
    assert of_chat(HELLO, BEGUN, add_generation_prompt=False).continues_last
    assert not of_messages(HELLO).continues_last
    assert not of_messages(HELLO, BEGUN, HELLO).continues_last


@pytest.mark.parametrize(
    ("turns", "fields", "said"),
    [
        ([HELLO], {}, "must be an assistant's"),
        ([HELLO, BEGUN | {"content": ""}], {}, "must be an assistant's"),
        ([HELLO, CALLING], {}, "must be an assistant's"),
        ([HELLO, BEGUN], {"add_generation_prompt": True}, "there is no"),
        ([HELLO, BEGUN], {"response_format": {"type": "json_object"}}, "cannot be held"),
        ([HELLO, BEGUN], {"tools": [TOOL], "tool_choice": "required"}, "cannot be held"),
    ],
)
def test_what_cannot_go_on(turns: list[dict[str, Any]], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refusal:
        of_chat(*turns, **fields)
    assert refusal.value.param == "messages"


def test_a_message_that_ends_in_a_call_is_refused_by_its_place() -> None:
    use = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    with pytest.raises(InvalidRequest) as refusal:
        of_messages(HELLO, {"role": "assistant", "content": [use]})
    assert refusal.value.param == "messages[1]"
