"""What a handler says about a running request: every protocol encodes from these, none of them is protocol-shaped."""

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


class PromptToken(msgspec.Struct, frozen=True, array_like=True):
    """A token of the prompt, as `TokenLogprob`; nothing comes before the first, so its probability is None."""

    token: bytes
    logprob: float | None
    top: list[Candidate]


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """The prompt is accepted; what follows can only fail for reasons of ours."""

    prompt_tokens: int
    cached_tokens: int = 0


class PrefillProgress(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """`done` of `total` prompt tokens are in the KV cache."""

    done: int
    total: int


class EchoDelta(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """A piece of the prompt, which a choice's answer begins with: its text in one piece, its tokens as they are known.

    `logprobs` are None when nobody asked.
    """

    text: str
    choice: int = 0
    logprobs: list[PromptToken] | None = None


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """A piece of a choice's answer: whole code points. Empty only when it brings log-probabilities.

    `logprobs` are of the tokens whose text became certain with this piece; None when nobody asked.
    """

    text: str
    choice: int = 0
    logprobs: list[TokenLogprob] | None = None


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """A piece of what a choice thinks before or between its answer: whole code points."""

    text: str
    choice: int = 0


class ToolCallStarted(msgspec.Struct, frozen=True, array_like=True, tag="k", gc=False):
    """A choice calls a function: its `index`-th call, counted from 0. `id` is unique to the call."""

    index: int
    id: str
    name: str
    choice: int = 0


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, tag="a", gc=False):
    """A piece of the arguments of the call that was started last: the pieces of one call join to a JSON object."""

    index: int
    arguments: str
    choice: int = 0


class ToolCallEnded(msgspec.Struct, frozen=True, array_like=True, tag="z", gc=False):
    """The call that was started last is complete. One that was cut off has no such event."""

    index: int
    choice: int = 0


class ChoiceEnded(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """A choice is complete; "tool_calls" when it ended by itself and made a call."""

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


class Tokenized(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    """The only event of a tokenize request; `pieces` only when asked for."""

    tokens: list[int]
    pieces: list[str] | None = None


class Detokenized(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """The only event of a detokenize request."""

    text: str


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The request failed inside the worker; `error` names the class in `app.errors`."""

    error: str
    message: str
    param: str | None = None


Event = (
    Started
    | PrefillProgress
    | EchoDelta
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallEnded
    | ChoiceEnded
    | Finished
    | Embedded
    | Tokenized
    | Detokenized
    | Failed
)
# After one of these nothing more is said about a request.
LastEvent = Finished | Embedded | Tokenized | Detokenized | Failed
