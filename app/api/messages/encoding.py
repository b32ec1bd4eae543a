"""Events to Anthropic's messages and stream events.

The bytes around a delta's text are made once per block: a delta costs one JSON string.
"""

import secrets
from collections.abc import Sequence
from typing import Literal

import msgspec
from pydantic_core import from_json

from app.api.messages.errors import error_json
from app.api.messages.signature import carrying_signature
from app.core.completion import CallPart, Part, ReasoningPart, TextPart, fold
from app.core.events import (
    ChoiceEnded,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.errors import ServerError

_json = msgspec.json.Encoder().encode
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_NO_ENDING: dict[str, object] = {"stop_reason": None, "stop_sequence": None}
# How a kind of block calls its deltas, and their text.
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
_UNAVAILABLE = {"cache_miss_reason": {"type": "unavailable"}}


class MessagesReply:
    """One reply's id and model, and its encoding in one piece.

    With `hides_thinking` the blocks of what the model thought are empty but for their signatures.
    """

    def __init__(self, model: str, *, hides_thinking: bool = False, is_diagnosed: bool = False) -> None:
        self.id = f"msg_{secrets.token_hex(12)}"
        self.model = model
        self.hides_thinking = hides_thinking
        self._diagnostics = {"diagnostics": _UNAVAILABLE} if is_diagnosed else {}

    def message(self, events: list[Event]) -> bytes:
        """The whole reply."""
        whole = fold(events)
        (choice,) = whole.choices
        ending = _ending(ChoiceEnded(choice.reason, stop_sequence=choice.stop_sequence))
        return _json(self.fields([self._block(part) for part in choice.parts], ending, whole.usage))

    def fields(self, content: list[object], ending: dict[str, object], usage: Usage) -> dict[str, object]:
        """A message, whole or as a stream begins with it."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **ending,
            "usage": _usage(usage) | {"service_tier": "standard"},
            **self._diagnostics,
        }

    def signature(self, thinking: str) -> str:
        """The signature of a block, which clients keep and bring back with it."""
        return carrying_signature(thinking) if self.hides_thinking else self.id

    def _block(self, part: Part) -> object:
        match part:
            case TextPart(text):
                return {"type": "text", "text": text}
            case ReasoningPart(text):
                shown = "" if self.hides_thinking else text
                return {"type": "thinking", "thinking": shown, "signature": self.signature(text)}
            case CallPart(call_id, name):
                return {"type": "tool_use", "id": call_id, "name": name, "input": _input(part)}


def _input(call: CallPart) -> object:
    """The arguments as they are; of a call that was cut off what is certain, as Anthropic's clients read a stream."""
    if call.is_complete:
        return msgspec.Raw(call.arguments.encode())
    return from_json(call.arguments, allow_partial=True) if call.arguments.strip() else {}


class MessagesStream:
    """One reply's encoding in events. Owned by the task that answers the request."""

    def __init__(self, reply: MessagesReply, request_id: str) -> None:
        self._reply = reply
        self._request_id = request_id
        self._index = -1
        self._open: Literal["text", "thinking", "tool_use"] | None = None
        # The bytes before a delta's text, and after it always the same.
        self._before = b""
        self._thinking: list[str] = []
        self._ending = _NO_ENDING

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(map(self._frames, events))

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`: one error event, no message_stop."""
        return b"event: error\ndata: " + error_json(error, self._request_id) + b"\n\n"

    def heartbeat(self) -> bytes:
        """See `StreamEncoder.heartbeat`."""
        return _PING

    def _frames(self, event: Event) -> bytes:
        match event:
            case TextDelta(text):
                return self._continue("text", text) if text else b""
            case ReasoningDelta(text):
                return self._continue("thinking", text) if text else b""
            case ToolCallDelta(_, arguments):
                return self._delta(arguments)
            case _:
                return self._rarer_frames(event)

    def _rarer_frames(self, event: Event) -> bytes:
        match event:
            case Started(prompt_tokens, cached_tokens):
                nothing_yet = self._reply.fields([], _NO_ENDING, Usage(prompt_tokens, 0, cached_tokens))
                return _event("message_start", message=nothing_yet) + _PING
            case ToolCallStarted(_, call_id, name):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                return self._start("tool_use", block) + self._delta("")
            case ToolCallEnded():
                return self._stop()
            case ChoiceEnded():
                self._ending = _ending(event)
                return self._stop()
            case Finished(usage):
                return _event("message_delta", delta=self._ending, usage=_usage(usage)) + _event("message_stop")
            case _:
                return b""

    def _continue(self, kind: Literal["text", "thinking"], text: str) -> bytes:
        begin = b""
        if self._open != kind:
            empty = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
            begin = self._start(kind, {"type": kind} | empty)
        if kind == "thinking" and self._reply.hides_thinking:
            self._thinking.append(text)
            return begin
        return begin + self._delta(text)

    def _delta(self, text: str) -> bytes:
        return self._before + _json(text) + b"}}\n\n"

    def _start(self, kind: Literal["text", "thinking", "tool_use"], block: object) -> bytes:
        end = self._stop()
        self._index += 1
        self._open = kind
        self._before = self._before_delta(*_DELTAS[kind])
        return end + _event("content_block_start", index=self._index, content_block=block)

    def _stop(self) -> bytes:
        """The end of the open block, if there is one."""
        if self._open is None:
            return b""
        signature = b""
        if self._open == "thinking":
            thinking, self._thinking = "".join(self._thinking), []
            signed = _json(self._reply.signature(thinking))
            signature = self._before_delta("signature_delta", "signature") + signed + b"}}\n\n"
        self._open = None
        return signature + _event("content_block_stop", index=self._index)

    def _before_delta(self, kind: str, field: str) -> bytes:
        start = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":'
        return (start % (self._index, kind, field)).encode()


def _event(name: str, **fields: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _json({"type": name, **fields}))


def _ending(ended: ChoiceEnded) -> dict[str, object]:
    match ended.reason:
        case "length":
            reason = "max_tokens"
        case "tool_calls":
            reason = "tool_use"
        case "stop":
            reason = "end_turn" if ended.stop_sequence is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": ended.stop_sequence}


def _usage(usage: Usage) -> dict[str, object]:
    """Token counts as Anthropic has them: the prompt's are split by where they came from."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
