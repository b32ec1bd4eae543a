"""A streamed chat completion as figures need it: when text arrived, and how many tokens it was."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from app.bench.call import Call
from app.bench.endpoint import CallFailed, Refused
from app.bench.sse import EventReader

_REASON_CHARS = 160


@dataclass(slots=True)
class Stream:
    """One answer. Times are those of `time.perf_counter`; `num_tokens` is the server's count, else the chunks'."""

    started_s: float
    times_s: list[float] = field(default_factory=list[float])
    text: str = ""
    num_tokens: int = 0
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    has_usage: bool = False
    is_finished: bool = False

    @property
    def ttft_s(self) -> float:
        """From before the connection to the first piece of text."""
        return self.times_s[0] - self.started_s

    @property
    def gaps_s(self) -> list[float]:
        """Between the arrivals of text; what arrives together is one arrival."""
        return [after - before for before, after in pairwise(self.times_s) if after > before]

    @property
    def num_new_tokens(self) -> int:
        """Of the prompt, those that were in no cache; 0 where the server does not say."""
        if self.num_prompt_tokens is None or self.num_cached_tokens is None:
            return 0
        return self.num_prompt_tokens - self.num_cached_tokens

    @property
    def tokens_per_s(self) -> float | None:
        """From the first arrival on."""
        return decode_rate([self])


def decode_rate(streams: "Sequence[Stream]") -> float | None:
    """Tokens per second from the first arrival of text on: what came with it was not waited for since.

    None when most text came together with other text of its stream: then the times tell of a busy machine, or of a
    server that sends in bursts, and not of decoding.
    """
    times_s = [moment for stream in streams for moment in stream.times_s]
    num_apart = sum(len(set(stream.times_s)) for stream in streams)
    if 2 * num_apart < len(times_s):
        return None
    first_s = min(times_s)
    num_later = sum(moment > first_s for moment in times_s)
    num_tokens = sum(stream.num_tokens for stream in streams)
    return rate(num_tokens * num_later / len(times_s), max(times_s) - first_s)


def rate(count: float, seconds: float) -> float | None:
    """Per second; None where nothing can be said."""
    return count / seconds if count > 0 and seconds > 0 else None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def read_stream(call: Call, *, may_be_cut: bool = False) -> Stream:
    """What a call has brought so far. Errors: Refused; CallFailed when it failed, is empty, or ends too early."""
    if call.status != 200:
        raise refusal(call)
    stream = Stream(call.started_s)
    reader = EventReader()
    for moment_s, piece in call.pieces:
        for data in reader.feed(piece):
            _take(stream, moment_s, data)
    for data in reader.close() if not may_be_cut else ():
        _take(stream, call.pieces[-1][0], data)
    if not stream.times_s:
        raise CallFailed("the answer had no text")
    if not (stream.is_finished or may_be_cut):
        raise CallFailed(f"the stream broke off after {len(stream.times_s)} pieces of text")
    return stream


def refusal(call: Call) -> Refused:
    """What a call says that was not answered with a stream."""
    return Refused(call.status, _reason(call.body))


def _take(stream: Stream, moment_s: float, data: bytes) -> None:
    if data == b"[DONE]":
        stream.is_finished = True
        return
    try:
        chunk = _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CallFailed(f"an event is no chat completion chunk ({error})") from None
    if bytes(chunk.error) != b"null":
        raise CallFailed(f"the stream ended with an error: {_reason(data)}")
    for choice in chunk.choices or ():
        stream.is_finished |= choice.finish_reason is not None
        if choice.delta is not None and (text := _text(choice.delta)):
            stream.times_s.append(moment_s)
            # A reasoning model's reasoning is no part of what the next turn repeats.
            stream.text += choice.delta.content or ""
            stream.num_tokens += not stream.has_usage and bool(text)
    if chunk.usage is not None:
        _take_usage(stream, chunk.usage)


def _text(delta: _Delta) -> str | None:
    return delta.content or delta.reasoning_content or delta.reasoning


def _take_usage(stream: Stream, usage: _Usage) -> None:
    if usage.completion_tokens:
        stream.num_tokens = usage.completion_tokens
        stream.has_usage = True
    if usage.prompt_tokens is not None:
        stream.num_prompt_tokens = usage.prompt_tokens
    if usage.prompt_tokens_details is not None:
        stream.num_cached_tokens = usage.prompt_tokens_details.cached_tokens


def _reason(body: bytes) -> str:
    """An error's message in whatever shape, on one line."""
    text = body.decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    for key in ("error", "message"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    return " ".join(str(said).split())[:_REASON_CHARS]


def all_gaps_s(streams: Sequence[Stream]) -> list[float]:
    """The gaps of all streams."""
    return [gap for stream in streams for gap in stream.gaps_s]
