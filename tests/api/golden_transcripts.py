"""What each protocol makes of the recordings, streamed and whole, as it is kept under `golden`.

`python -m tests.api.golden_transcripts` writes the files anew, to be read before they are kept.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.api.chat.encoding import ChatReply, ChatStream
from app.api.completions.encoding import CompletionReply, CompletionStream
from app.api.messages.encoding import MessagesReply, MessagesStream
from app.api.responses.order import Input, to_toolbox
from app.api.responses.output_items import Shown
from app.api.responses.response_object import ResponseObject
from app.api.responses.stream import ResponseStream
from app.core.events import ChoiceEnded, Event, TextDelta
from app.errors import ServerError
from app.schemas.responses import ResponseRequest
from tests.api.responses.recordings import ALL_RECORDINGS, Recording
from tests.fixtures.recordings import RECORDINGS
from tests.fixtures.recordings.prompts import PROMPTS
from tests.fixtures.recordings.texts import TEXTS

GOLDEN = Path(__file__).parent / "golden"


def chat(events: list[Event]) -> tuple[bytes, bytes]:
    """The stream with usage, and the whole reply."""
    reply = ChatReply("tiny", includes_usage=True)
    return ChatStream(reply, "req_1").encode(events), reply.completion(events)


def completions(events: list[Event]) -> tuple[bytes, bytes]:
    """The stream with usage, and the whole reply."""
    num_choices = sum(isinstance(event, ChoiceEnded) for event in events)
    has_logprobs = any(isinstance(event, TextDelta) and event.logprobs is not None for event in events)
    terms = {"num_choices": num_choices, "best_of": num_choices}
    reply = CompletionReply("tiny", **terms, has_logprobs=has_logprobs, includes_usage=True)
    return CompletionStream(reply, num_choices, "req_1").encode(events), reply.completion(events)


def messages(events: list[Event]) -> tuple[bytes, bytes]:
    """The stream, and the whole reply."""
    reply = MessagesReply("tiny")
    return MessagesStream(reply, "req_1").encode(events), reply.message(events)


def response_stream(asked: dict[str, Any]) -> ResponseStream:
    """The encoder of an answer to a request with these fields."""
    body = ResponseRequest.model_validate_json(json.dumps({"model": "tiny", "input": "x"} | asked))
    conversation = asked["conversation"]["id"] if "conversation" in asked else None
    shown = Shown(
        has_summary=bool(asked.get("reasoning")),
        is_sealed="reasoning.encrypted_content" in asked.get("include", ()),
        is_background=bool(asked.get("background")),
    )
    return ResponseStream(ResponseObject(body, "tiny", conversation), to_toolbox(body, Input()), shown)


def responses(recording: Recording, batches: list[list[Event]] | None = None) -> tuple[bytes, bytes]:
    """The whole stream, and the response that it ended as."""
    stream = response_stream(recording.asked)
    # In the background the first events are there at once.
    frames = stream.begin() if recording.asked.get("background") else b""
    frames += b"".join(map(stream.encode, batches or [recording.events]))
    if recording.ends_with is None:
        stream.complete()
    else:
        stream.fail(recording.ends_with if isinstance(recording.ends_with, ServerError) else None)
    response = stream.response()
    return frames + stream.end(response), response


def with_plain_ids(transcript: str) -> str:
    """Ids are numbered in their order, times left out."""
    for number, id_ in enumerate(dict.fromkeys(re.findall(r"[a-z]+_[0-9a-f]{48}", transcript))):
        transcript = transcript.replace(id_, f"{id_.partition('_')[0]}_{number}")
    transcript = re.sub(r'"(chatcmpl-|cmpl-|msg_)(?:[0-9a-f]{24}|[0-9a-f]{28})"', r'"\1ID"', transcript)
    return re.sub(r'"(created|created_at|completed_at)":\d{10}', r'"\1":0', transcript)


def _both(encoded: tuple[bytes, bytes]) -> str:
    return with_plain_ids(b"%s%s\n".__mod__(encoded).decode())


def _last(recording: Recording) -> str:
    """The last event has the whole response in it."""
    return with_plain_ids(responses(recording)[0].decode())


def _transcripts() -> dict[str, Callable[[], str]]:
    made: dict[str, Callable[[], str]] = {}
    for name, events in RECORDINGS.items():
        made[f"chat/{name}.txt"] = lambda events=events: _both(chat(events))
        made[f"messages/{name}.txt"] = lambda events=events: _both(messages(events))
    for name, events in (TEXTS | PROMPTS).items():
        made[f"completions/{name}.txt"] = lambda events=events: _both(completions(events))
    for name, recording in ALL_RECORDINGS.items():
        made[f"responses/{name}.txt"] = lambda recording=recording: _last(recording)
    return made


# By its file, how each transcript is made.
TRANSCRIPTS = _transcripts()


def write_golden() -> None:
    """Write all of them."""
    for name, make in TRANSCRIPTS.items():
        (GOLDEN / name).parent.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(make(), "utf-8", newline="")


if __name__ == "__main__":
    write_golden()
