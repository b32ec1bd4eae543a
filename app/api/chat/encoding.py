"""Events to chat completions and chunks.

The bytes around a chunk's text are made once per reply: a delta costs one JSON string.
"""

import secrets
import time
from collections.abc import Sequence

import msgspec

from app.api.openai_errors import error_json
from app.api.replies import COMMENT
from app.core.completion import Choice, fold
from app.core.events import (
    Candidate,
    ChoiceEnded,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from app.errors import ServerError

_json = msgspec.json.Encoder().encode


class ChatReply:
    """One reply's id, time and name, and its encoding in one piece."""

    def __init__(self, model: str, *, num_choices: int = 1, includes_usage: bool = False) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(14)}"
        self.created = int(time.time())
        self.model = model
        self.num_choices = num_choices
        self.includes_usage = includes_usage

    def completion(self, events: list[Event]) -> bytes:
        """The whole reply."""
        whole = fold(events)
        return _json(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [_choice(index, choice) for index, choice in enumerate(whole.choices)],
                "usage": usage_json(whole.usage),
            }
        )


def _choice(index: int, choice: Choice) -> dict[str, object]:
    # As OpenAI has it, an answer that is nothing but calls has no content.
    content = choice.text if choice.text or not choice.calls else None
    message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [_call(call.id, call.name, call.arguments) for call in choice.calls]
    logprobs = _logprobs(choice.logprobs)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason}


def _call(call_id: str, name: str, arguments: str) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


class ChatStream:
    """One reply's encoding in chunks."""

    def __init__(self, reply: ChatReply, request_id: str) -> None:
        self._request_id = request_id
        self._reply = reply
        head = (_json(reply.id), reply.created, _json(reply.model))
        self._head = b'data: {"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,"choices":[' % head
        # With usage asked for, OpenAI puts a null into every chunk but the last.
        self._tail = b'],"usage":null}\n\n' if reply.includes_usage else b"]}\n\n"
        before = [b'{"index":%d,"delta":{"content":' % index for index in range(reply.num_choices)]
        self._before_text = [self._head + start for start in before]
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._tail

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(map(self._frame, events))

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`: one error event, no finish_reason, no [DONE]."""
        return b"data: " + error_json(error, self._request_id) + b"\n\n"

    def heartbeat(self) -> bytes:
        """See `StreamEncoder.heartbeat`."""
        return COMMENT

    def _frame(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, choice, None):
                return self._before_text[choice] + _json(text) + self._after_text
            case Started():
                role = b'{"role":"assistant","content":""}'
                return b"".join(self._chunk(choice, role) for choice in range(self._reply.num_choices))
            case ChoiceEnded(reason, choice):
                return self._chunk(choice, b"{}", _json(reason))
            case Finished(usage):
                return self._usage(usage) + b"data: [DONE]\n\n"
            case _:
                return self._rarer_frame(event)

    def _rarer_frame(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, choice, logprobs):
                return self._chunk(choice, _json({"content": text}), logprobs=_json(_logprobs(logprobs)))
            case ReasoningDelta(text, choice):
                return self._chunk(choice, b'{"reasoning_content":%s}' % _json(text))
            case ToolCallStarted(index, call_id, name, choice):
                return self._chunk(choice, _json({"tool_calls": [{"index": index} | _call(call_id, name, "")]}))
            case ToolCallDelta(index, arguments, choice):
                parts = (index, _json(arguments))
                return self._chunk(choice, b'{"tool_calls":[{"index":%d,"function":{"arguments":%s}}]}' % parts)
            case _:
                return b""

    def _chunk(self, choice: int, delta: bytes, reason: bytes = b"null", logprobs: bytes = b"null") -> bytes:
        parts = (choice, delta, logprobs, reason)
        return self._head + b'{"index":%d,"delta":%s,"logprobs":%s,"finish_reason":%s}' % parts + self._tail

    def _usage(self, usage: Usage) -> bytes:
        if not self._reply.includes_usage:
            return b""
        return self._head + b'],"usage":' + _json(usage_json(usage)) + b"}\n\n"


def usage_json(usage: Usage) -> dict[str, object]:
    """Token counts as the chat API has them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _logprobs(logprobs: list[TokenLogprob] | None) -> dict[str, object] | None:
    if logprobs is None:
        return None
    tokens = [_candidate(one) | {"top_logprobs": [_candidate(top) for top in one.top]} for one in logprobs]
    return {"content": tokens, "refusal": None}


def _candidate(one: TokenLogprob | Candidate) -> dict[str, object]:
    return {"token": one.token.decode("utf-8", "replace"), "logprob": one.logprob, "bytes": list(one.token)}
