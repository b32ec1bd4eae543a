"""Events to chat completions and chunks.

The bytes around a chunk's text are made once per reply: a delta costs one JSON string.
"""

import secrets
import time
from collections.abc import Sequence

import msgspec

from app.api.openai_errors import error_json
from app.core.events import Event, Finished, Started, TextDelta, Usage, fold
from app.errors import ServerError

_json = msgspec.json.Encoder().encode


class ChatReply:
    """One reply's id, time and name, and its encoding in one piece."""

    def __init__(self, model: str, *, includes_usage: bool) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(14)}"
        self.created = int(time.time())
        self.model = model
        self.includes_usage = includes_usage

    def completion(self, events: list[Event]) -> bytes:
        """The whole reply."""
        whole = fold(events)
        message = {"role": "assistant", "content": whole.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": whole.reason}
        return _json(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "usage": usage_json(whole.usage),
            }
        )


class ChatStream:
    """One reply's encoding in chunks."""

    def __init__(self, reply: ChatReply, request_id: str) -> None:
        self._request_id = request_id
        self._includes_usage = reply.includes_usage
        self._head = b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,"choices":[' % (
            *(_json(reply.id), reply.created, _json(reply.model)),
        )
        # With usage asked for, OpenAI puts a null into every chunk but the last.
        self._tail = b'],"usage":null}\n\n' if reply.includes_usage else b"]}\n\n"
        self._before_text = self._head + b'{"index":0,"delta":{"content":'
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._tail

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(map(self._frame, events))

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`: one error event, no finish_reason, no [DONE]."""
        return b"data: " + error_json(error, self._request_id) + b"\n\n"

    def _frame(self, event: Event) -> bytes:
        match event:
            case TextDelta(text):
                return self._before_text + _json(text) + self._after_text
            case Started():
                return self._choice(b'{"role":"assistant","content":""}', b"null")
            case Finished(reason, usage):
                last = self._choice(b"{}", _json(reason))
                if self._includes_usage:
                    last += self._head + b'],"usage":' + _json(usage_json(usage)) + b"}\n\n"
                return last + b"data: [DONE]\n\n"
            case _:
                return b""

    def _choice(self, delta: bytes, reason: bytes) -> bytes:
        choice = b'{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}' % (delta, reason)
        return self._head + choice + self._tail


def usage_json(usage: Usage) -> dict[str, object]:
    """Token counts as the chat API has them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
