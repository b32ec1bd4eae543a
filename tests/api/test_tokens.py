"""Bodies of tokenize requests to what is tokenized."""

import json

import pytest

from app.api.chat.routes import to_generation
from app.api.media.attachments import Attachments
from app.api.tokens import to_prompt
from app.core.conversation import Conversation, RawPrompt
from app.errors import InvalidRequest
from app.schemas.chat import ChatCompletionRequest
from app.schemas.tokens import TokenizeRequestBody

CHAT = {
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    "tools": [{"type": "function", "function": {"name": "look"}}],
    "chat_template_kwargs": {"mode": "fast"},
    "reasoning_effort": "low",
}


def prompt(**body: object) -> Conversation | RawPrompt:
    return to_prompt(TokenizeRequestBody.model_validate_json(json.dumps(body)).root, Attachments())


def test_a_text() -> None:
    assert prompt(prompt="a") == RawPrompt("a")
    assert prompt(prompt="a", add_special_tokens=True, return_token_strs=True) == RawPrompt("a")
    assert prompt(prompt="a", add_special_tokens=False) == RawPrompt("a", adds_special_tokens=False)


def test_a_conversation_is_what_a_chat_completion_makes_of_it() -> None:
    chat = to_generation(ChatCompletionRequest.model_validate_json(json.dumps(CHAT)), Attachments()).prompt
    assert prompt(**CHAT) == prompt(**CHAT, add_generation_prompt=True) == chat
    assert isinstance(chat, Conversation)
    assert chat.opens_answer
    closed = prompt(**CHAT, add_generation_prompt=False)
    assert isinstance(closed, Conversation)
    assert not closed.opens_answer
    assert closed.messages == chat.messages


def test_a_conversation_that_chat_refuses() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        prompt(messages=[{"role": "user", "content": [{"type": "text"}]}])
    assert refusal.value.param == "messages[0].content[0].text"
