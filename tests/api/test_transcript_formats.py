"""Every format of a transcript, the subtitles against those that mlx_whisper writes."""

import io
import json
from typing import Any

import pytest
from mlx_whisper.writers import WriteSRT, WriteVTT
from msgspec.structs import replace

from app.api.audio.transcript_formats import TranscriptReply, TranscriptStream
from app.core.events import Event, Segment, Started, TextDelta, Transcribed, Usage, Word
from app.errors import InternalError
from app.schemas.transcriptions import Transcript, VerboseTranscript


def segment(number: int, start_s: float, end_s: float, text: str) -> Segment:
    words = [Word(f" {word}", start_s, end_s, 0.5) for word in text.split()]
    return Segment(number, 0, start_s, end_s, text, [50364, 5, 50400], 0.0, -0.25, 1.5, 0.125, words)


SEGMENTS = [
    segment(0, 0.0, 2.9999999999999996, " Ever tried, ever failed."),
    segment(1, 2.9999999999999996, 59.9996, " No matter -->  try again."),
    # What turned out to be nothing.
    segment(2, 60.0, 60.0, ""),
    segment(3, 3599.9994, 7325.12, " Fail again.\n"),
]
EVENTS: list[Event] = [
    Started(499),
    *(event for one in SEGMENTS for event in (TextDelta(one.text), one)),
    Transcribed("english", 7326.01, Usage(499, 26)),
]
TEXT = "Ever tried, ever failed. No matter -->  try again. Fail again."


def in_one_piece(reply: TranscriptReply) -> Any:
    return json.loads(reply.whole(EVENTS))


def streamed(reply: TranscriptReply, events: list[Event]) -> list[dict[str, Any]]:
    stream = TranscriptStream(reply, "req_1")
    frames = b"".join(stream.encode([event]) for event in events).split(b"\n\n")
    assert frames.pop() == b""
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def test_json_has_the_text_and_what_it_cost() -> None:
    reply = in_one_piece(TranscriptReply("json"))
    assert reply == {"text": TEXT, "usage": {"type": "duration", "seconds": 7327}}
    Transcript.model_validate(reply, strict=True)
    assert TranscriptReply("json").media_type == "application/json"


def test_plain_text_is_the_text() -> None:
    assert TranscriptReply("text").whole(EVENTS).decode() == f"{TEXT}\n"
    assert TranscriptReply("text").media_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("form", "writer"), [("srt", WriteSRT), ("vtt", WriteVTT)])
def test_subtitles_are_those_of_mlx_whisper(form: Any, writer: Any) -> None:
    result = {"segments": [{"start": one.start_s, "end": one.end_s, "text": one.text} for one in SEGMENTS]}
    expected = io.StringIO()
    writer("").write_result(result, expected)
    assert TranscriptReply(form).whole(EVENTS).decode() == expected.getvalue()
    assert "02:02:05" in expected.getvalue()


def test_verbose_json_has_the_segments() -> None:
    reply = in_one_piece(TranscriptReply("verbose_json"))
    VerboseTranscript.model_validate(reply, strict=True)
    assert {name: reply[name] for name in ("task", "language", "duration", "text")} == {
        "task": "transcribe",
        "language": "english",
        "duration": 7326.01,
        "text": TEXT,
    }
    assert "words" not in reply
    assert [one["text"] for one in reply["segments"]] == [one.text for one in SEGMENTS]
    assert reply["segments"][1] == {
        "id": 1,
        "seek": 0,
        "start": 2.9999999999999996,
        "end": 59.9996,
        "text": " No matter -->  try again.",
        "tokens": [50364, 5, 50400],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.125,
    }


@pytest.mark.parametrize("logprob", [float("-inf"), float("nan")])
def test_what_json_has_no_number_for_is_a_number_all_the_same(logprob: float) -> None:
    events: list[Event] = [replace(SEGMENTS[0], avg_logprob=logprob), EVENTS[-1]]
    reply = json.loads(TranscriptReply("verbose_json").whole(events))
    assert VerboseTranscript.model_validate(reply, strict=True).segments[0].avg_logprob == -1000.0  # type: ignore[index]


def test_words_are_beside_the_segments_or_in_their_place() -> None:
    both = in_one_piece(TranscriptReply("verbose_json", has_words=True))
    assert both["words"][0] == {"word": "Ever", "start": 0.0, "end": 2.9999999999999996}
    assert len(both["words"]) == len(TEXT.split())
    alone = in_one_piece(TranscriptReply("verbose_json", has_words=True, has_segments=False))
    assert alone == {name: value for name, value in both.items() if name != "segments"}


def test_a_translation_is_english_whatever_was_spoken() -> None:
    events = [*EVENTS[:-1], Transcribed("german", 1.0, Usage(1))]
    reply = json.loads(TranscriptReply("verbose_json", is_translation=True).whole(events))
    assert (reply["task"], reply["language"]) == ("translate", "english")


def test_a_stream_has_the_text_in_pieces_and_whole() -> None:
    events = streamed(TranscriptReply("json"), EVENTS)
    assert [event["type"] for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"] == TEXT
    assert events[-1]["usage"] == {"type": "tokens", "input_tokens": 499, "output_tokens": 26, "total_tokens": 525}


def test_a_verbose_stream_has_segments_that_say_something() -> None:
    events = streamed(TranscriptReply("verbose_json"), EVENTS)
    segments = [event for event in events if event["type"] == "transcript.text.segment"]
    assert [one["id"] for one in segments] == ["0", "1", "3"]
    assert segments[0] == {
        "type": "transcript.text.segment",
        "id": "0",
        "start": 0.0,
        "end": 2.9999999999999996,
        "text": " Ever tried, ever failed.",
        "speaker": "",
    }


@pytest.mark.parametrize(
    "pieces", [[" ", " a ", "", "b", " \n", "c ", "  "], ["  "], [], ["a"], ["\u3000\u6771 ", "x"]]
)
def test_a_stream_is_trimmed_as_the_text_in_one_piece(pieces: list[str]) -> None:
    events: list[Event] = [*(TextDelta(piece) for piece in pieces), EVENTS[-1]]
    shown = streamed(TranscriptReply("json"), events)
    whole = json.loads(TranscriptReply("json").whole(events))["text"]
    assert whole == "".join(pieces).strip() == shown[-1]["text"]
    assert "".join(event["delta"] for event in shown[:-1]) == whole
    assert all(event["delta"] for event in shown[:-1])


def test_an_error_ends_a_stream() -> None:
    frame = TranscriptStream(TranscriptReply("json"), "req_1").error(InternalError())
    assert json.loads(frame.removeprefix(b"data: "))["error"]["code"] == "internal_error"


def test_a_transcription_without_its_end_is_a_defect() -> None:
    with pytest.raises(ValueError, match="without its last event"):
        TranscriptReply("srt").whole(EVENTS[:-1])
