"""What a request was answered with, in one piece or as a stream."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from app.bench.call import Call
from app.bench.sse import EventReader

# A request that waits for long gets its status before anybody has looked at it.
_HEARTBEAT = b": keep-alive"
_REFUSAL = b'"type":"invalid_request_error"'


@dataclass(slots=True)
class Choice:
    """One answer; `logprobs` are OpenAI's, token by token."""

    text: str = ""
    reasons: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(slots=True)
class Reply:
    """Everything of it; `status` is also that of an error in a stream that had to begin before it was known.

    `faults` are what no reply may be.
    """

    status: int
    choices: list[Choice] = field(default_factory=list[Choice])
    usage: dict[str, Any] | None = None
    faults: list[str] = field(default_factory=list[str])

    @property
    def texts(self) -> list[str]:
        """Of all answers, in order."""
        return [choice.text for choice in self.choices]


def read_reply(call: Call, *, streams: bool) -> Reply:
    """Read a call that is over."""
    reply = Reply(call.status)
    if call.status == 200 and streams:
        _read_stream(reply, call.body)
        return reply
    try:
        body = json.loads(call.body)
    except ValueError:
        reply.faults.append(f"the body is no JSON: {call.body[:80]!r}")
        return reply
    if call.status != 200:
        if not (isinstance(body, dict) and isinstance(body.get("error"), dict) and body["error"].get("message")):
            reply.faults.append(f"an error without a message: {call.body[:80]!r}")
        return reply
    reply.usage = body["usage"]
    for choice in body["choices"]:
        logprobs = (choice["logprobs"] or {}).get("content") or []
        reply.choices.append(Choice(choice["message"]["content"], [choice["finish_reason"]], logprobs))
    return reply


def _read_stream(reply: Reply, body: bytes) -> None:
    reader = EventReader()
    *events, last = [*reader.feed(body), *reader.close()] or [b""]
    if body.startswith(_HEARTBEAT) and not events and _REFUSAL in last:
        reply.status = 400
        return
    if last != b"[DONE]":
        reply.faults.append(f"the stream ended with {last[:160]!r}")
        return
    choices: defaultdict[int, Choice] = defaultdict(Choice)
    for chunk in map(json.loads, events):
        if "error" in chunk:
            reply.faults.append(f"an error in the stream: {chunk['error']}")
        reply.usage = chunk.get("usage") or reply.usage
        for given in chunk.get("choices", []):
            choice = choices[given["index"]]
            choice.text += given["delta"].get("content") or ""
            choice.logprobs += (given.get("logprobs") or {}).get("content") or []
            if given["finish_reason"] is not None:
                choice.reasons.append(given["finish_reason"])
    reply.choices = [choices[index] for index in sorted(choices)]
