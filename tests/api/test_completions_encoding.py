import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion as OpenAICompletion

from app.api.completions.encoding import CompletionReply, CompletionStream
from app.core.events import (
    Candidate,
    ChoiceEnded,
    EchoDelta,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    PromptToken,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from app.errors import ModelUnavailable
from app.schemas.completions import Completion, CompletionChunk

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
COUNT = st.integers(0, 2**40)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT, COUNT)
NUM_CHOICES = 3
CANDIDATE = st.builds(Candidate, st.binary(max_size=4), st.floats(-50, 0))
TOP = st.lists(CANDIDATE, max_size=3)
LOGPROBS = st.lists(st.builds(TokenLogprob, st.binary(max_size=4), st.floats(-50, 0), TOP), max_size=3)
PROMPT_TOKENS = st.lists(st.builds(PromptToken, st.binary(max_size=4), st.floats(-50, 0), TOP), max_size=3)
REASON: st.SearchStrategy[FinishReason] = st.sampled_from(["stop", "length"])


@st.composite
def generations(draw: st.DrawFn) -> list[list[Event]]:
    """A whole generation's events, the choices mixed, in batches as they may arrive."""
    usage = draw(USAGE)
    has_echo, has_logprobs = draw(st.booleans()), draw(st.booleans())
    lines: list[list[Event]] = []
    for choice in range(NUM_CHOICES):
        line: list[Event] = []
        if has_echo:
            first = PromptToken(draw(st.binary(max_size=4)), None, [])
            line.append(EchoDelta(draw(TEXT), choice, [first] if has_logprobs else None))
            if has_logprobs:
                line += [EchoDelta("", choice, tokens) for tokens in draw(st.lists(PROMPT_TOKENS, max_size=2))]
        line += [
            TextDelta(text, choice, draw(LOGPROBS) if has_logprobs else None)
            for text in draw(st.lists(TEXT, max_size=6))
        ]
        lines.append([*line, ChoiceEnded(draw(REASON), choice)])
    events: list[Event] = [Started(usage.prompt_tokens), PrefillProgress(1, 2)]
    while left := [line for line in lines if line]:
        events.append(draw(st.sampled_from(left)).pop(0))
    events.append(Finished(usage))
    cuts = sorted(draw(st.sets(st.integers(1, len(events) - 1))))
    return [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """The JSON of a stream's events; each is one line of data and an empty line."""
    frames = stream.decode().split("\n\n")
    assert frames[-1] == ""
    assert frames[-2] == "data: [DONE]"
    assert all(frame.startswith("data: {") and "\n" not in frame for frame in frames[:-2])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def reply_of(
    *, model: str = "model", n: int = NUM_CHOICES, best_of: int | None = None, **fields: bool
) -> CompletionReply:
    own = {"has_logprobs": True, "includes_usage": False}
    return CompletionReply(model, num_choices=n, best_of=best_of or n, **own | fields)


@given(generations(), TEXT, st.booleans())
def test_a_stream_and_a_reply_say_the_same(batches: list[list[Event]], model: str, includes_usage: bool) -> None:
    reply = reply_of(model=model, includes_usage=includes_usage)
    whole = Completion.model_validate_json(reply.completion([event for batch in batches for event in batch]))
    stream = CompletionStream(reply, NUM_CHOICES, "req_1")
    chunks = [CompletionChunk.model_validate(c) for c in chunks_of(b"".join(map(stream.encode, batches)))]

    assert [choice.index for choice in whole.choices] == list(range(NUM_CHOICES))
    for answer in whole.choices:
        pieces = [choice for chunk in chunks for choice in chunk.choices if choice.index == answer.index]
        assert "".join(piece.text for piece in pieces) == answer.text
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [answer.finish_reason]
        assert pieces[-1].finish_reason is not None
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [one for piece in pieces if piece.logprobs for one in getattr(piece.logprobs, name)]
            assert joined == (getattr(answer.logprobs, name) if answer.logprobs else [])
    assert {(c.id, c.created, c.model) for c in chunks} == {(whole.id, whole.created, whole.model)}
    assert whole.model == model
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if includes_usage else [])
    assert chunks[-1].usage is None or chunks[-1].choices == []


@given(generations(), st.booleans())
def test_openais_own_type_accepts_both(batches: list[list[Event]], includes_usage: bool) -> None:
    """But for the nulls that OpenAI itself sends and its type does not have: a reason that is not known yet, and the
    first token of an echo.
    """
    reply = reply_of(includes_usage=includes_usage)
    whole = json.loads(reply.completion([event for batch in batches for event in batch]))
    stream = CompletionStream(reply, NUM_CHOICES, "req_1")
    for one in (whole, *chunks_of(b"".join(map(stream.encode, batches)))):
        for choice in one["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
            for name in ("token_logprobs", "top_logprobs") if choice["logprobs"] else ():
                choice["logprobs"][name] = [value for value in choice["logprobs"][name] if value is not None]
        OpenAICompletion.model_validate_json(json.dumps(one), strict=True)
        assert ("usage" in one) == (includes_usage or one is whole)


def test_log_probabilities_that_nobody_asked_for_are_not_shown() -> None:
    events: list[Event] = [
        Started(1),
        TextDelta("a", 0, [TokenLogprob(b"a", -1.0, [])]),
        ChoiceEnded("stop"),
        Finished(Usage(1)),
    ]
    whole = json.loads(reply_of(n=1, has_logprobs=False).completion(events))
    assert whole["choices"][0]["logprobs"] is None
    assert json.loads(reply_of(n=1).completion(events))["choices"][0]["logprobs"]["tokens"] == ["a"]


class TestBestOf:
    def events(self, *means: float | None) -> list[Event]:
        """Choices of two tokens of these means; None for one that says nothing."""
        events: list[Event] = []
        for choice, mean in enumerate(means):
            tokens = [] if mean is None else [TokenLogprob(b"x", mean * 2, []), TokenLogprob(b"y", 0.0, [])]
            events += [TextDelta("" if mean is None else f"{mean}", choice, tokens), ChoiceEnded("length", choice)]
        return [*events, Finished(Usage(3, 7))]

    def texts(self, reply: bytes) -> list[tuple[int, str]]:
        return [(choice["index"], choice["text"]) for choice in json.loads(reply)["choices"]]

    def test_the_likeliest_come_first(self) -> None:
        events = self.events(-2.0, -0.5, None, -1.0)
        assert self.texts(reply_of(n=2, best_of=4).completion(events)) == [(0, "-0.5"), (1, "-1.0")]
        assert self.texts(reply_of(n=1, best_of=4).completion(events)) == [(0, "-0.5")]

    def test_each_prompt_has_its_own(self) -> None:
        events = self.events(-2.0, -1.5, -0.25, -0.5)
        assert self.texts(reply_of(n=1, best_of=2).completion(events)) == [(0, "-1.5"), (1, "-0.25")]

    def test_a_long_answer_is_not_a_worse_one(self) -> None:
        tokens = [TokenLogprob(b"x", -1.0, []) for _ in range(9)]
        events: list[Event] = [
            *(TextDelta("short", 0, [TokenLogprob(b"s", -2.0, [])]), ChoiceEnded("stop", 0)),
            *(TextDelta("long", 1, tokens), ChoiceEnded("stop", 1)),
            Finished(Usage(1)),
        ]
        assert self.texts(reply_of(n=1, best_of=2).completion(events)) == [(0, "long")]

    def test_all_that_was_generated_is_counted(self) -> None:
        whole = json.loads(reply_of(n=1, best_of=4).completion(self.events(-1.0, -2.0, -3.0, -4.0)))
        assert whole["usage"]["completion_tokens"] == 7


def test_an_error_ends_the_stream() -> None:
    stream = CompletionStream(reply_of(), NUM_CHOICES, "req_9")
    frame = stream.error(ModelUnavailable("It died."))
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    body = json.loads(frame.removeprefix(b"data: "))
    assert (body["error"]["message"], body["request_id"]) == ("It died.", "req_9")
    assert stream.heartbeat().startswith(b":")


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_a_text_has_no_calls(reason: FinishReason) -> None:
    events: list[Event] = [ChoiceEnded(reason), Finished(Usage(1))]
    assert json.loads(reply_of(n=1).completion(events))["choices"][0]["finish_reason"] == "stop"
