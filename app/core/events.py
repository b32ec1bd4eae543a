"""What a handler says about a running request: every protocol encodes from these, none of them is protocol-shaped."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Token counts of one finished request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token that the model could choose: its bytes, and the natural logarithm of its probability."""

    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A generated token, and the likeliest candidates for its place, the likeliest first."""

    token: bytes
    logprob: float
    top: list[Candidate]


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """The prompt is accepted; what follows can only fail for reasons of ours."""

    prompt_tokens: int
    cached_tokens: int = 0


class PrefillProgress(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """`done` of `total` prompt tokens are in the KV cache."""

    done: int
    total: int


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """A piece of a choice's answer: whole code points. Empty only when it brings log-probabilities.

    `logprobs` are of the tokens whose text became certain with this piece; None when nobody asked.
    """

    text: str
    choice: int = 0
    logprobs: list[TokenLogprob] | None = None


class ChoiceEnded(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """A choice is complete."""

    reason: FinishReason
    choice: int = 0
    stop_sequence: str | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """The last event of a generation: every choice has ended."""

    usage: Usage


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """The only event of an embedding request: one little-endian float32 vector per input, in input order."""

    vectors: list[bytes]
    usage: Usage


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The request failed inside the worker; `error` names the class in `app.errors`."""

    error: str
    message: str
    param: str | None = None


Event = Started | PrefillProgress | TextDelta | ChoiceEnded | Finished | Embedded | Failed


@dataclass(slots=True)
class Choice:
    """One whole answer."""

    text: str = ""
    reason: FinishReason = "stop"
    stop_sequence: str | None = None
    logprobs: list[TokenLogprob] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation, folded from its events; the choices in order."""

    choices: list[Choice]
    usage: Usage


def fold(events: Iterable[Event]) -> Completion:
    """Fold a generation's events into what a non-streaming reply shows.

    Errors: ValueError when the events do not end with `Finished`.
    """
    choices: dict[int, Choice] = {}
    texts: dict[int, list[str]] = {}
    for event in events:
        match event:
            case TextDelta(text, index, logprobs):
                texts.setdefault(index, []).append(text)
                choice = choices.setdefault(index, Choice())
                if logprobs is not None:
                    choice.logprobs = (choice.logprobs or []) + logprobs
            case ChoiceEnded(reason, index, stop_sequence):
                choice = choices.setdefault(index, Choice())
                choice.reason, choice.stop_sequence = reason, stop_sequence
                choice.text = "".join(texts.get(index, []))
            case Finished(usage):
                return Completion([choices[index] for index in sorted(choices)], usage)
            case _:
                pass
    raise ValueError("a generation ended without its Finished event")
