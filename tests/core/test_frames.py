import contextlib
import itertools
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import conversation, events, frames, requests
from app.core.frames import FrameError, ToServer, ToWorker, encode

# Surrogates are no text: UTF-8 has none.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COUNT = st.integers(0, 2**40)
NUMBER = st.floats(allow_nan=False, width=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

USAGE = st.builds(events.Usage, COUNT, COUNT, COUNT, COUNT)
IMAGE_USAGE = st.builds(events.ImageUsage, COUNT, COUNT, COUNT)
SIZE = st.tuples(COUNT, COUNT)
CANDIDATE = st.builds(events.Candidate, st.binary(max_size=4), st.floats(-50, 0))
LOGPROB = st.builds(events.TokenLogprob, st.binary(max_size=4), st.floats(-50, 0), st.lists(CANDIDATE, max_size=2))
PROMPT_TOKEN = st.builds(
    events.PromptToken, st.binary(max_size=4), st.none() | st.floats(-50, 0), st.lists(CANDIDATE, max_size=2)
)
TIMED = st.lists(st.builds(events.TimedText, TEXT, NUMBER, NUMBER), max_size=2)
TIMINGS = st.builds(
    events.SpeechTimings, TIMED, TIMED, st.lists(st.builds(events.TimedViseme, COUNT, NUMBER, NUMBER), max_size=2)
)
VOICE = st.builds(events.Voice, TEXT, st.none() | TEXT, st.sampled_from([None, "female", "male"]))
BY_TYPE: dict[type[Any], st.SearchStrategy[Any]] = {
    events.Started: st.builds(events.Started, COUNT, COUNT),
    events.PrefillProgress: st.builds(events.PrefillProgress, COUNT, COUNT),
    events.EchoDelta: st.builds(events.EchoDelta, TEXT, COUNT, st.none() | st.lists(PROMPT_TOKEN, max_size=2)),
    events.TextDelta: st.builds(events.TextDelta, TEXT, COUNT, st.none() | st.lists(LOGPROB, max_size=2)),
    events.ReasoningDelta: st.builds(events.ReasoningDelta, TEXT, COUNT),
    events.ToolCallStarted: st.builds(events.ToolCallStarted, COUNT, TEXT, TEXT, COUNT),
    events.ToolCallDelta: st.builds(events.ToolCallDelta, COUNT, TEXT, COUNT),
    events.ToolCallEnded: st.builds(events.ToolCallEnded, COUNT, COUNT),
    events.ChoiceEnded: st.builds(
        events.ChoiceEnded, st.sampled_from(get_args(events.FinishReason)), COUNT, st.none() | TEXT
    ),
    events.Finished: st.builds(events.Finished, USAGE),
    events.Embedded: st.builds(events.Embedded, st.lists(st.binary(max_size=40), max_size=3), USAGE),
    events.Segment: st.builds(
        events.Segment,
        *(COUNT, COUNT, NUMBER, NUMBER, TEXT),
        st.lists(COUNT, max_size=3),
        *(NUMBER, NUMBER, NUMBER, NUMBER),
        st.none() | st.lists(st.builds(events.Word, TEXT, NUMBER, NUMBER, NUMBER), max_size=2),
    ),
    events.Transcribed: st.builds(events.Transcribed, TEXT, NUMBER, USAGE),
    events.ImageProgress: st.builds(events.ImageProgress, COUNT, COUNT, COUNT),
    events.ImagePreview: st.builds(events.ImagePreview, COUNT, COUNT, st.binary(max_size=40), SIZE),
    events.ImageMade: st.builds(events.ImageMade, COUNT, st.binary(max_size=40), SIZE, IMAGE_USAGE),
    events.ImagesFinished: st.builds(events.ImagesFinished, IMAGE_USAGE),
    events.Tokenized: st.builds(events.Tokenized, st.lists(COUNT, max_size=3), st.none() | st.lists(TEXT, max_size=3)),
    events.Detokenized: st.builds(events.Detokenized, TEXT),
    events.AudioDelta: st.builds(events.AudioDelta, st.binary(max_size=9), st.none() | TIMINGS),
    events.Spoken: st.builds(events.Spoken, COUNT, COUNT, USAGE),
    events.VoicesListed: st.builds(events.VoicesListed, st.lists(VOICE, max_size=2)),
    events.Failed: st.builds(events.Failed, TEXT, TEXT, st.none() | TEXT),
}
SAMPLING = st.builds(
    requests.Sampling,
    **{
        name: st.none() | NUMBER
        for name in (
            *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
            *("typical_p", "xtc_probability", "dry_multiplier", "dry_base"),
        )
    },
    logit_bias=st.none() | st.dictionaries(COUNT, NUMBER, max_size=3),
    top_k=st.none() | COUNT,
    seed=st.none() | st.integers(0, 2**63 - 1),
    dry_allowed_length=st.none() | COUNT,
    dry_sequence_breakers=st.none() | st.lists(TEXT, max_size=3).map(tuple),
)
MESSAGE = st.builds(
    conversation.Message,
    st.sampled_from(get_args(conversation.Role)),
    TEXT,
    st.none() | TEXT,
    st.lists(st.builds(conversation.ToolCall, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    st.none() | TEXT,
    st.none() | TEXT,
)
TOOL_USE = st.builds(
    conversation.ToolUse,
    st.lists(st.builds(conversation.Tool, TEXT, st.none() | TEXT, TEXT, st.booleans()), max_size=2).map(tuple),
    st.sampled_from(["auto", "none", "required"]),
    st.none() | st.lists(TEXT, max_size=2).map(tuple),
    st.booleans(),
)
EFFORT = st.sampled_from(get_args(conversation.Effort))
REASONING = st.builds(conversation.Reasoning, st.none() | st.booleans(), st.none() | EFFORT, st.none() | COUNT)
PROMPT = st.builds(
    conversation.Conversation,
    st.lists(MESSAGE, max_size=3),
    st.none() | TOOL_USE,
    REASONING,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.booleans(),
) | st.builds(
    conversation.RawPrompt, TEXT | st.lists(COUNT, max_size=3), st.none() | TEXT, st.booleans(), st.booleans()
)
REQUEST_BY_TYPE: dict[type[Any], st.SearchStrategy[Any]] = {
    requests.GenerationRequest: st.builds(
        requests.GenerationRequest,
        PROMPT,
        SAMPLING,
        st.none() | COUNT,
        st.lists(TEXT, max_size=3).map(tuple),
    ),
    requests.EmbeddingRequest: st.builds(
        requests.EmbeddingRequest, st.lists(TEXT | st.lists(COUNT, max_size=3), max_size=3), st.none() | COUNT
    ),
    requests.TranscriptionRequest: st.builds(
        requests.TranscriptionRequest,
        st.binary(max_size=20),
        st.booleans(),
        *(st.none() | TEXT, st.none() | TEXT, st.none() | NUMBER, st.none() | COUNT),
        *(st.booleans(), st.booleans(), NUMBER, NUMBER, NUMBER),
        st.tuples(NUMBER, st.none() | NUMBER),
    ),
    requests.SpeechRequest: st.builds(
        requests.SpeechRequest,
        *(TEXT, st.none() | TEXT, st.sampled_from(get_args(requests.AudioFormat)), NUMBER, st.none() | TEXT),
        *(st.booleans(), st.booleans(), st.integers(-(2**63), 2**63 - 1)),
    ),
    requests.VoicesRequest: st.builds(requests.VoicesRequest),
    requests.ImageRequest: st.builds(
        requests.ImageRequest,
        TEXT,
        COUNT,
        size=st.none() | SIZE,
        effort=st.sampled_from(get_args(requests.ImageEffort)),
        guidance=st.none() | NUMBER,
        sources=st.lists(st.binary(max_size=20), max_size=2).map(tuple),
        mask=st.none() | st.binary(max_size=20),
        file_format=st.sampled_from(get_args(requests.ImageFormat)),
    ),
    requests.TokenizeRequest: st.builds(requests.TokenizeRequest, PROMPT, st.booleans()),
    requests.DetokenizeRequest: st.builds(requests.DetokenizeRequest, st.lists(COUNT, max_size=3)),
}
INFO = st.builds(frames.ModelInfo, st.sampled_from(get_args(requests.Kind)), COUNT, TEXT, NUMBER, TEXT)
TO_WORKER_BY_TYPE: dict[type[Any], st.SearchStrategy[Any]] = {
    frames.Load: st.builds(frames.Load, TEXT, TEXT, st.none() | COUNT),
    frames.Submit: st.builds(frames.Submit, COUNT, st.one_of(*REQUEST_BY_TYPE.values())),
    frames.Cancel: st.builds(frames.Cancel, COUNT),
    frames.Inspect: st.builds(frames.Inspect, COUNT, st.booleans()),
    frames.Ping: st.builds(frames.Ping),
    frames.Close: st.builds(frames.Close),
}
CACHES = st.builds(frames.CacheStats, **dict.fromkeys(frames.CacheStats.__struct_fields__, COUNT))
TO_SERVER_BY_TYPE: dict[type[Any], st.SearchStrategy[Any]] = {
    frames.Turn: st.builds(frames.Turn, st.lists(st.tuples(COUNT, st.one_of(*BY_TYPE.values())), max_size=5)),
    frames.Progress: st.builds(frames.Progress, TEXT),
    frames.Ready: st.builds(frames.Ready, INFO, TEXT, COUNT),
    frames.LoadFailed: st.builds(frames.LoadFailed, TEXT),
    frames.Inspected: st.builds(frames.Inspected, COUNT, CACHES),
    frames.Pulse: st.builds(frames.Pulse, st.none() | COUNT, st.none() | COUNT, COUNT),
    frames.LogLine: st.builds(frames.LogLine, st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]), TEXT),
}
TO_WORKER = st.lists(st.one_of(*TO_WORKER_BY_TYPE.values()), max_size=5)
TO_SERVER = st.lists(st.one_of(*TO_SERVER_BY_TYPE.values()), max_size=5)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


to_server = frames.reader_of_server
to_worker = frames.reader_of_worker


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def test_every_type_is_tried_here() -> None:
    assert set(BY_TYPE) == set(get_args(events.Event))
    assert set(REQUEST_BY_TYPE) == set(get_args(requests.Request))
    assert set(TO_WORKER_BY_TYPE) == set(get_args(ToWorker))
    assert set(TO_SERVER_BY_TYPE) == set(get_args(ToServer))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(messages=TO_SERVER, places=CUTS)
def test_what_the_worker_sends_arrives_however_it_is_cut(messages: list[ToServer], places: list[int]) -> None:
    reader = to_server()
    arrived = [message for piece in cut(b"".join(map(encode, messages)), places) for message in reader.feed(piece)]
    assert arrived == messages


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(messages=TO_WORKER, places=CUTS)
def test_what_the_server_sends_arrives_however_it_is_cut(messages: list[ToWorker], places: list[int]) -> None:
    reader = to_worker()
    arrived = [message for piece in cut(b"".join(map(encode, messages)), places) for message in reader.feed(piece)]
    assert arrived == messages


def test_byte_by_byte_a_message_arrives_with_its_last_byte() -> None:
    message = frames.Turn([(1, events.TextDelta("h\u00e9")), (2, events.Started(3))])
    data = encode(message)
    reader = to_server()
    assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert reader.feed(data[-1:]) == [message]


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(body=st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_frame_error(body: bytes) -> None:
    for reader in (to_server(), to_worker()):
        try:
            messages = reader.feed(frame(body))
        except FrameError:
            continue
        assert len(messages) == 1


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(message=st.one_of(*TO_SERVER_BY_TYPE.values()), place=st.integers(0, 400), byte=st.integers(0, 255))
def test_one_wrong_byte_is_a_message_or_a_frame_error(message: ToServer, place: int, byte: int) -> None:
    body = bytearray(encode(message)[4:])
    body[place % len(body)] = byte
    with contextlib.suppress(FrameError):
        assert len(to_server().feed(frame(bytes(body)))) == 1


def nested(depth: int) -> bytes:
    """A Submit whose template_arguments hold lists in lists."""
    request = msgspec.msgpack.encode(
        {"type": "generate", "prompt": {"type": "conversation", "messages": [], "template_arguments": {"x": 0}}}
    )
    return b"\x93\xa6submit\x01" + request[:-1] + b"\x91" * depth + b"\x00"


def test_a_nested_submit_is_read() -> None:
    (message,) = to_worker().feed(frame(nested(3)))
    asked = conversation.Conversation([], template_arguments={"x": [[[0]]]})
    assert message == frames.Submit(1, requests.GenerationRequest(asked))


@pytest.mark.parametrize(
    "body",
    {
        "unknown tag": msgspec.msgpack.encode(["shout", 1]),
        "no tag": msgspec.msgpack.encode([]),
        "no list": msgspec.msgpack.encode({"tag": "cancel"}),
        "a field is missing": msgspec.msgpack.encode(["cancel"]),
        "a field of another type": msgspec.msgpack.encode(["cancel", "1"]),
        "the other direction's": encode(frames.LoadFailed("no"))[4:],
        "something after it": encode(frames.Cancel(1))[4:] + b"\x00",
        "cut off": encode(frames.Cancel(70_000))[4:-1],
        "empty": b"",
        "no UTF-8": b"\x93\xa4load\xa1\xff\xa0",
        "an unknown request": msgspec.msgpack.encode(["submit", 1, {"type": "dance"}]),
        "nested without end": nested(100_000),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_frame_that_holds_no_message(body: tuple[str, bytes]) -> None:
    with pytest.raises(FrameError, match="no known message"):
        to_worker().feed(frame(body[1]))


def test_the_messages_before_a_broken_one_are_lost_with_it() -> None:
    with pytest.raises(FrameError):
        to_worker().feed(encode(frames.Cancel(1)) + frame(b"\xc1"))


class TestSize:
    def test_a_length_over_the_limit_is_refused_before_its_body_comes(self) -> None:
        with pytest.raises(FrameError, match=str(frames.MAX_FRAME_BYTES + 1)):
            to_worker().feed((frames.MAX_FRAME_BYTES + 1).to_bytes(4, "little"))

    def test_the_limit_itself_is_allowed(self) -> None:
        assert to_worker().feed(frames.MAX_FRAME_BYTES.to_bytes(4, "little")) == []

    def test_text_in_place_of_frames(self) -> None:
        with pytest.raises(FrameError, match="over the limit"):
            to_worker().feed(b"GET / HTTP/1.1\r\n")

    def test_a_message_that_no_reader_would_take_is_not_made(self) -> None:
        with pytest.raises(FrameError, match="over the limit"):
            encode(frames.Turn([(1, events.Embedded([bytes(frames.MAX_FRAME_BYTES)], events.Usage(1)))]))
