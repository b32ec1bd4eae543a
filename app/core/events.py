"""What a handler says about a running request: every protocol encodes from these, none of them is protocol-shaped."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Token counts of one finished request."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """The prompt is accepted; what follows can only fail for reasons of ours."""

    prompt_tokens: int
    cached_tokens: int = 0


class PrefillProgress(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """`done` of `total` prompt tokens are in the KV cache."""

    done: int
    total: int


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t", gc=False):
    """A piece of the answer: whole code points, never empty."""

    text: str


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """The last event of a generation."""

    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """The only event of an embedding request: one little-endian float32 vector per input, in input order."""

    vectors: list[bytes]
    usage: Usage


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The request failed inside the worker; `error` names the class in `app.errors`."""

    error: str
    message: str
    param: str | None = None


Event = Started | PrefillProgress | TextDelta | Finished | Embedded | Failed


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation, folded from its events."""

    text: str
    reason: FinishReason
    usage: Usage
    stop_sequence: str | None


def fold(events: Iterable[Event]) -> Completion:
    """Fold a generation's events into what a non-streaming reply shows.

    Errors: ValueError when the events do not end with `Finished`.
    """
    texts: list[str] = []
    for event in events:
        match event:
            case TextDelta(text):
                texts.append(text)
            case Finished(reason, usage, stop_sequence):
                return Completion("".join(texts), reason, usage, stop_sequence)
            case _:
                pass
    raise ValueError("a generation ended without its Finished event")
