import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion as OpenAICompletion
from openai.types.chat import ChatCompletionChunk as OpenAIChunk

from app.api.chat.encoding import ChatReply, ChatStream
from app.core.events import (
    Candidate,
    ChoiceEnded,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.errors import ModelUnavailable
from app.schemas.chat import AnswerToolCall, ChatCompletion, ChatCompletionChunk, ChunkChoice, FunctionCall

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
COUNT = st.integers(0, 2**40)
USAGE = st.builds(Usage, COUNT, COUNT, COUNT, COUNT)
NUM_CHOICES = 2
CANDIDATE = st.builds(Candidate, st.binary(max_size=4), st.floats(-50, 0))
LOGPROBS = st.lists(
    st.builds(TokenLogprob, st.binary(max_size=4), st.floats(-50, 0), st.lists(CANDIDATE, max_size=3)), max_size=3
)
REASON = st.sampled_from(get_args(FinishReason))


@st.composite
def generations(draw: st.DrawFn) -> list[list[Event]]:
    """A whole generation's events, in batches as they may arrive."""
    usage = draw(USAGE)
    events: list[Event] = [Started(usage.prompt_tokens), PrefillProgress(1, 2)]
    has_logprobs = draw(st.booleans())
    for choice in range(NUM_CHOICES):
        events += [ReasoningDelta(text, choice) for text in draw(st.lists(TEXT, max_size=3))]
        texts = draw(st.lists(TEXT, max_size=8))
        events += [TextDelta(text, choice, draw(LOGPROBS) if has_logprobs else None) for text in texts]
        for index, pieces in enumerate(draw(st.lists(st.lists(TEXT, max_size=3), max_size=2))):
            events.append(ToolCallStarted(index, f"call_{index}", draw(TEXT), choice))
            events += [ToolCallDelta(index, piece, choice) for piece in pieces]
            events.append(ToolCallEnded(index, choice))
        reason: FinishReason = draw(REASON)
        events.append(ChoiceEnded(reason, choice))
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


def calls_of(pieces: list[ChunkChoice]) -> list[AnswerToolCall]:
    """The calls of a stream, put together as clients do it."""
    calls: list[AnswerToolCall] = []
    for delta in [delta for piece in pieces for delta in piece.delta.tool_calls or []]:
        if delta.id is not None:
            assert delta.index == len(calls)
            assert delta.function.name is not None
            calls.append(AnswerToolCall(id=delta.id, type="function", function=FunctionCall(name=delta.function.name)))
        arguments = calls[delta.index].function.arguments + delta.function.arguments
        calls[delta.index] = calls[delta.index].model_copy(
            update={"function": calls[delta.index].function.model_copy(update={"arguments": arguments})}
        )
    return calls


@given(generations(), TEXT, st.booleans())
def test_a_stream_and_a_reply_say_the_same(batches: list[list[Event]], model: str, includes_usage: bool) -> None:
    reply = ChatReply(model, num_choices=NUM_CHOICES, includes_usage=includes_usage)
    whole = ChatCompletion.model_validate_json(reply.completion([event for batch in batches for event in batch]))
    stream = ChatStream(reply, "req_1")
    chunks = [ChatCompletionChunk.model_validate(c) for c in chunks_of(b"".join(map(stream.encode, batches)))]

    assert [choice.index for choice in whole.choices] == list(range(NUM_CHOICES))
    for answer in whole.choices:
        pieces = [choice for chunk in chunks for choice in chunk.choices if choice.index == answer.index]
        assert "".join(piece.delta.content or "" for piece in pieces) == (answer.message.content or "")
        assert "".join(piece.delta.reasoning_content or "" for piece in pieces) == (
            answer.message.reasoning_content or ""
        )
        assert calls_of(pieces) == (answer.message.tool_calls or [])
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [answer.finish_reason]
        assert pieces[-1].finish_reason is not None
        assert [piece.delta.role for piece in pieces] == ["assistant", *[None] * (len(pieces) - 1)]
        tokens = [token for piece in pieces if piece.logprobs for token in piece.logprobs.content or []]
        assert tokens == ((answer.logprobs and answer.logprobs.content) or [])
    assert {(c.id, c.created, c.model) for c in chunks} == {(whole.id, whole.created, whole.model)}
    assert whole.model == model
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if includes_usage else [])
    assert chunks[-1].usage is None or chunks[-1].choices == []


@given(generations(), st.booleans())
def test_openais_own_types_accept_both(batches: list[list[Event]], includes_usage: bool) -> None:
    reply = ChatReply("model", num_choices=NUM_CHOICES, includes_usage=includes_usage)
    OpenAICompletion.model_validate_json(reply.completion([event for batch in batches for event in batch]), strict=True)
    for chunk in chunks_of(b"".join(map(ChatStream(reply, "req_1").encode, batches))):
        OpenAIChunk.model_validate_json(json.dumps(chunk), strict=True)
        assert ("usage" in chunk) == includes_usage


def test_totals_add_up() -> None:
    events: list[Event] = [Started(5), ChoiceEnded("stop"), Finished(Usage(5, 7, 3, 2))]
    usage = json.loads(ChatReply("model", includes_usage=False).completion(events))["usage"]
    assert usage == {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_an_error_ends_a_stream_without_pretending() -> None:
    frame = ChatStream(ChatReply("model", includes_usage=True), "req_1").error(ModelUnavailable("It died."))
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"}\n\n")
    assert json.loads(frame.removeprefix(b"data: ")) == {
        "error": {"message": "It died.", "type": "server_error", "param": None, "code": "model_unavailable"},
        "request_id": "req_1",
    }


def test_a_generation_without_its_end_is_no_reply() -> None:
    with pytest.raises(ValueError, match="Finished"):
        ChatReply("model", includes_usage=False).completion([Started(3), TextDelta("half")])


def test_every_reply_has_an_id_of_its_own() -> None:
    assert len({ChatReply("model", includes_usage=False).id for _ in range(100)}) == 100


def test_an_answer_of_calls_alone_has_no_content() -> None:
    call: list[Event] = [ToolCallStarted(0, "call_1", "look"), ToolCallDelta(0, "{}"), ToolCallEnded(0)]
    end: list[Event] = [ChoiceEnded("tool_calls"), Finished(Usage(1))]

    def message(*events: Event) -> dict[str, Any]:
        return json.loads(ChatReply("model").completion([Started(1), *events, *end]))["choices"][0]["message"]

    assert message(*call)["content"] is None
    assert message(TextDelta("I look."), *call)["content"] == "I look."
    assert message()["content"] == ""
    assert "tool_calls" not in message()
    assert "reasoning_content" not in message()
