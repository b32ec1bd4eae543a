import json
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st

from app.api.messages.encoding import MessagesReply, MessagesStream
from app.core.events import Event, ReasoningDelta, Started, TextDelta, ToolCallDelta, ToolCallStarted
from app.errors import ModelUnavailable
from app.schemas.messages_replies import MessageReply
from tests.fixtures.recordings import RECORDINGS

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}


def client(content: bytes, content_type: str) -> Anthropic:
    """Anthropic's own client, told to accept nothing undocumented, before a server that always says the same."""

    def respond(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=content, headers={"content-type": content_type, "request-id": "req_1"})

    return Anthropic(
        base_url="http://server",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )


def read_whole(content: bytes) -> Message:
    with client(content, "application/json") as opened:
        return opened.messages.create(**ASKED)


def read_stream(content: bytes) -> Message:
    with client(content, "text/event-stream") as opened, opened.messages.stream(**ASKED) as stream:
        return Message.model_validate(stream.get_final_message().to_dict())


def streamed(reply: MessagesReply, batches: list[list[Event]]) -> bytes:
    return b"".join(map(MessagesStream(reply, "req_1").encode, batches))


@pytest.mark.parametrize("hides_thinking", [False, True])
@pytest.mark.parametrize("name", RECORDINGS)
def test_anthropics_client_reads_the_same_from_both(name: str, hides_thinking: bool) -> None:
    reply = MessagesReply("tiny", hides_thinking=hides_thinking, is_diagnosed=True)
    whole = read_whole(reply.message(RECORDINGS[name]))
    assert read_stream(streamed(reply, [RECORDINGS[name]])) == whole
    assert (whole.id, whole.model, whole._request_id) == (reply.id, "tiny", "req_1")
    assert whole.diagnostics is not None


def test_a_call_is_complete_as_soon_as_it_is() -> None:
    """Clients begin to make it while the model goes on."""
    encoder = MessagesStream(MessagesReply("m"), "req_1")
    begun = encoder.encode(RECORDINGS["parallel_calls"][:4])
    assert begun.endswith(b'data: {"type":"content_block_stop","index":0}\n\n')


@given(st.data(), st.sampled_from(sorted(RECORDINGS)))
def test_how_events_are_batched_does_not_matter(data: st.DataObject, name: str) -> None:
    events = RECORDINGS[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events) - 1))))
    batches = [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    reply = MessagesReply("tiny")
    assert streamed(reply, batches) == streamed(reply, [events])


@given(st.integers(0, 40), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_a_call_cut_off_anywhere_is_read_the_same_from_both(length: int, text: str) -> None:
    arguments = json.dumps({"text": text, "n": [-1.5e3, None, True], "deep": {"er": {}}})[:length]
    begun: list[Event] = [Started(3), ToolCallStarted(0, "call_a", "write"), ToolCallDelta(0, arguments)]
    events = begun + RECORDINGS["call_cut_off"][-2:]
    reply = MessagesReply("tiny")
    assert read_stream(streamed(reply, [events])) == read_whole(reply.message(events))


def test_what_is_documented_is_what_is_said() -> None:
    for events in RECORDINGS.values():
        whole = json.loads(MessagesReply("tiny").message(events))
        assert MessageReply.model_validate(whole, strict=True, extra="forbid").model_dump(exclude_unset=True) == whole


def test_a_text_block_has_no_citations() -> None:
    """@ai-sdk/anthropic breaks on null."""
    for content in (
        MessagesReply("m").message(RECORDINGS["plain"]),
        streamed(MessagesReply("m"), [RECORDINGS["plain"]]),
    ):
        assert b"citations" not in content


def test_pieces_without_text_open_no_block() -> None:
    events: list[Event] = [Started(3), TextDelta(""), ReasoningDelta(""), *RECORDINGS["plain"][1:]]
    reply = MessagesReply("m")
    assert streamed(reply, [events]).count(b"content_block_start\n") == 1
    assert json.loads(reply.message(events))["content"] == [{"type": "text", "text": "The capital is Paris."}]


def test_what_is_hidden_is_in_the_signature_alone() -> None:
    reply = MessagesReply("m", hides_thinking=True)
    for content in (
        reply.message(RECORDINGS["reasoning_and_text"]),
        streamed(reply, [RECORDINGS["reasoning_and_text"]]),
    ):
        assert b"greets" not in content
        assert b"thinking_delta" not in content
        assert b'"signature":"thinking:VGhlIHVzZXIgZ3JlZXRzIG1lLgo="' in content


def test_an_error_ends_a_stream_without_pretending() -> None:
    encoder = MessagesStream(MessagesReply("m"), "req_7")
    content = encoder.encode(RECORDINGS["text_and_call"][:4]) + encoder.error(ModelUnavailable("It died."))
    last = content.decode().removesuffix("\n\n").rpartition("\n\n")[2]
    assert last.startswith("event: error\ndata: {")
    with (
        client(content, "text/event-stream") as opened,
        opened.messages.stream(**ASKED) as stream,
        pytest.raises(APIStatusError) as caught,
    ):
        list(stream)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "It died."},
        "request_id": "req_7",
    }


def test_a_heartbeat_is_a_ping_that_clients_pass_over() -> None:
    reply = MessagesReply("m")
    encoder = MessagesStream(reply, "req_1")
    content = encoder.heartbeat()
    for event in RECORDINGS["text_and_call"]:
        content += encoder.encode([event]) + encoder.heartbeat()
    assert content.startswith(b'event: ping\ndata: {"type":"ping"}\n\n')
    assert read_stream(content) == read_whole(reply.message(RECORDINGS["text_and_call"]))


def test_every_reply_has_an_id_of_its_own() -> None:
    assert len({MessagesReply("m").id for _ in range(100)}) == 100
