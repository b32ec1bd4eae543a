"""Anthropic's own client, told to accept nothing but what Anthropic documents, and what the tests ask with it."""

from typing import Any

from anthropic import Anthropic
from anthropic.types import Message, TextBlock

from tests.e2e.processes import ServerProcess

MESSAGES = "/v1/messages"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0}
KEY = "alice-key-8f14e45f"
FOX = "the quick brown fox jumps over the lazy dog. "
LONG_PROMPT = FOX * 400


def open_client(server: ServerProcess, path: str = "", /, **options: str) -> Anthropic:
    keys: dict[str, Any] = options or {"api_key": "none"}
    return Anthropic(base_url=f"{server.url}{path}", max_retries=0, _strict_response_validation=True, **keys)


def text_of(message: Message) -> str:
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


def ask(client: Anthropic, **fields: Any) -> Message:
    asked: dict[str, Any] = {"model": "x", "messages": HELLO, "max_tokens": 9, "extra_body": GREEDY, **fields}
    return client.messages.create(**asked)


def prompt_tokens(message: Message) -> int:
    usage = message.usage
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
