import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.api.responses.reasoning import unsealed
from app.core.completion import CallPart, Part, ReasoningPart, TextPart, fold
from app.core.events import ChoiceEnded, Finished, Started, TextDelta, Usage
from app.errors import InvalidRequest, ModelUnavailable, QueueFull, ServerError
from app.schemas.responses import ResponseBody
from app.schemas.responses import ResponseEvent as DocumentedEvent
from tests.api.golden_transcripts import response_stream, responses, with_plain_ids
from tests.api.responses.recordings import ALL_RECORDINGS, OWN_RECORDINGS, Recording
from tests.fixtures.openai_client import openai_client

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
WHOLE = {name: one for name, one in ALL_RECORDINGS.items() if one.ends_with is None}


def events_of(frames: bytes) -> list[dict[str, Any]]:
    """The JSON of a stream's events; each is one line of its type, one of data and an empty line."""
    events: list[dict[str, Any]] = []
    for frame in frames.decode().removesuffix("\n\n").split("\n\n"):
        match = re.fullmatch(r"event: (\S+)\ndata: (\{.*\})", frame)
        assert match is not None, frame
        events.append(json.loads(match[2]))
        assert events[-1]["type"] == match[1]
    return events


@pytest.mark.parametrize("name", ALL_RECORDINGS)
def test_openais_own_types_and_ours_accept_it(name: str) -> None:
    frames, response = responses(ALL_RECORDINGS[name])
    for event in events_of(frames):
        assert EVENT.validate_json(json.dumps(event), strict=True).type == event["type"]
        DocumentedEvent.model_validate(event)
    Response.model_validate_json(response, strict=True)
    shown = ResponseBody.model_validate_json(response)
    assert shown.model_dump().keys() == json.loads(response).keys()


@pytest.mark.parametrize("name", ALL_RECORDINGS)
def test_events_are_numbered_and_end_in_the_response(name: str) -> None:
    frames, response = responses(ALL_RECORDINGS[name])
    events = events_of(frames)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    first, second, *_, last = events
    whole = json.loads(response)
    assert last["response"] == whole
    assert (first["type"], second["type"]) == ("response.created", f"response.{second['response']['status']}")
    assert last["type"] == f"response.{'failed' if whole['status'] == 'cancelled' else whole['status']}"
    for event in (first, second):
        assert event["response"]["output"] == []
        assert event["response"].keys() == whole.keys()
        assert event["response"]["id"] == whole["id"]


@pytest.mark.parametrize("name", WHOLE)
def test_openais_own_client_reads_the_same_from_both(name: str) -> None:
    frames, response = responses(WHOLE[name])
    with openai_client(response) as opened:
        whole = opened.responses.create(model="tiny", input="x")
    with openai_client(frames) as opened, opened.responses.stream(model="tiny", input="x") as stream:
        last = [event for event in stream if event.type == "response.completed" or event.type == "response.incomplete"]
    assert [event.response.id for event in last] == [whole.id]
    for event in last:
        assert event.response.output_text == whole.output_text
        ids = [[item.to_dict().get("id") for item in one.output] for one in (event.response, whole)]
        assert ids[0] == ids[1]


@pytest.mark.parametrize("name", WHOLE)
def test_has_what_the_folded_generation_has(name: str) -> None:
    recording = WHOLE[name]
    frames, response = responses(recording)
    whole, shown = fold(recording.events), json.loads(response)
    (choice,) = whole.choices
    parts = [_shown_part(part, recording) for part in choice.parts]
    assert [_said(item) for item in shown["output"]] == (parts or [] if choice.reason == "length" else parts or [""])
    is_cut_off = choice.reason == "length"
    assert shown["status"] == ("incomplete" if is_cut_off else "completed")
    assert shown["incomplete_details"] == ({"reason": "max_output_tokens"} if is_cut_off else None)
    assert (shown["completed_at"] is None) == is_cut_off
    assert [item["status"] for item in shown["output"]][:-1] == ["completed"] * (len(shown["output"]) - 1)
    # A call that was made stays whole, whatever ends the answer behind it.
    is_made = bool(parts) and isinstance(choice.parts[-1], CallPart) and choice.parts[-1].is_complete
    last_status = "completed" if is_made else shown["status"]
    assert [item["status"] for item in shown["output"]][-1:] == [last_status] * bool(shown["output"])
    usage = whole.usage
    assert shown["usage"] == {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    # What the deltas of an item join to is what the item says.
    done = [event["item"] for event in events_of(frames) if event["type"] == "response.output_item.done"]
    for item in done:
        deltas = [
            event["delta"]
            for event in events_of(frames)
            if event.get("item_id") == item["id"]
            and event["type"].endswith(".delta")
            and "summary" not in event["type"]
        ]
        assert "".join(deltas) == _said(item)
    assert [item for item in done if item in shown["output"]] == shown["output"]


def _said(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message" | "reasoning":
            return item["content"][0]["text"]
        case "function_call":
            return item["arguments"]
        case _:
            return item["input"]


def _shown_part(part: Part, recording: Recording) -> str:
    match part:
        case TextPart(text) | ReasoningPart(text):
            return text
        case CallPart(_, name, arguments):
            is_custom = name in ("patch", "mcp__disk__write") and "tools" in recording.asked
            if not is_custom or not part.is_complete:
                return arguments
            return json.loads(arguments).get("input", arguments)


@given(st.data(), st.sampled_from(sorted(WHOLE)))
def test_how_events_are_batched_does_not_matter(data: st.DataObject, name: str) -> None:
    events = WHOLE[name].events
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events) - 1))))
    batches = [events[start:end] for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    frames, whole = responses(WHOLE[name], batches), responses(WHOLE[name])
    assert with_plain_ids(frames[0].decode()) == with_plain_ids(whole[0].decode())


def test_thoughts_are_sealed_where_asked_for_and_can_be_opened() -> None:
    _, response = responses(OWN_RECORDINGS["summary_and_sealed"])
    thought = json.loads(response)["output"][0]
    assert unsealed(thought["encrypted_content"]) == "Let me think." == thought["summary"][0]["text"]
    assert "think" not in thought["encrypted_content"]
    _, response = responses(ALL_RECORDINGS["reasoning_and_text"])
    thought = json.loads(response)["output"][0]
    assert "encrypted_content" not in thought
    assert thought["summary"] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelUnavailable("x"), "server_error"),
        (InvalidRequest("x"), "invalid_prompt"),
        (QueueFull("x"), "rate_limit_exceeded"),
    ],
)
def test_failures_have_codes_that_openai_has(error: ServerError, code: str) -> None:
    _, response = responses(Recording([Started(5)], ends_with=error))
    assert json.loads(response)["error"] == {"code": code, "message": "x"}
    Response.model_validate_json(response, strict=True)


def test_heartbeats_are_whole_events() -> None:
    stream = response_stream({})
    frames = stream.heartbeat() + stream.heartbeat() + stream.encode([Started(5), TextDelta("Hi")]) + stream.heartbeat()
    frames += stream.encode([ChoiceEnded("stop"), Finished(Usage(5))])
    stream.complete()
    events = events_of(frames + stream.end(stream.response()))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("in_progress", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_json(json.dumps(event), strict=True)


def test_heartbeats_do_not_tell_the_end_before_it_is_kept() -> None:
    stream = response_stream({})
    stream.encode([Started(5), TextDelta("Hi"), ChoiceEnded("stop"), Finished(Usage(5))])
    stream.complete()
    assert stream.heartbeat().startswith(b":")
    stream = response_stream({})
    stream.fail(ModelUnavailable("x"))
    assert stream.heartbeat().startswith(b":")


def test_heartbeats_in_the_queue_of_the_background_say_so() -> None:
    stream = response_stream({"background": True})
    events = events_of(stream.begin() + stream.heartbeat() + stream.encode([Started(5)]))
    assert [event["type"] for event in events] == [
        *("response.created", "response.queued", "response.queued", "response.in_progress")
    ]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "queued", "in_progress"]


def test_every_response_has_ids_of_its_own() -> None:
    made = [json.loads(responses(OWN_RECORDINGS["background"])[1]) for _ in range(100)]
    ids = [item["id"] for response in made for item in (response, *response["output"])]
    assert len(set(ids)) == 300
