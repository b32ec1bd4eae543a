"""Speech as JSON: in one piece with its timings, and as events."""

import base64
from collections.abc import Sequence

import msgspec

from app.api.openai_errors import error_json
from app.api.replies import COMMENT
from app.core.events import AudioDelta, Event, Spoken, Usage, VoicesListed
from app.core.requests import AudioFormat
from app.errors import ServerError


def to_timed_speech(events: list[Event], audio_format: AudioFormat) -> bytes:
    """The reply with timings."""
    match events:
        case [*deltas, Spoken(sample_rate, num_samples, usage)]:
            pieces = [event for event in deltas if isinstance(event, AudioDelta)]
            timings = [piece.timings for piece in pieces if piece.timings is not None]
            timed = {
                "words": [
                    {"word": one.text, **_span(one.start_s, one.end_s)} for part in timings for one in part.words
                ],
                "phonemes": [
                    {"phoneme": one.text, **_span(one.start_s, one.end_s)} for part in timings for one in part.phonemes
                ],
                "visemes": [
                    {"viseme": one.viseme, **_span(one.start_s, one.end_s)} for part in timings for one in part.visemes
                ],
            }
            said = {
                "audio": _base64(b"".join(piece.audio for piece in pieces)),
                "format": audio_format,
                "sample_rate": sample_rate,
                "duration": num_samples / sample_rate,
            }
            return msgspec.json.encode(said | timed | {"usage": _usage(usage)})
        case _:
            raise ValueError("a speech request ended without its last event")


def to_voices(events: list[Event], model: str) -> bytes:
    """The list of voices."""
    match events:
        case [VoicesListed(voices)]:
            data = [
                {"id": voice.id, "object": "voice", "language": voice.language, "gender": voice.gender}
                for voice in voices
            ]
            return msgspec.json.encode({"object": "list", "model": model, "data": data})
        case _:
            raise ValueError("a request for the voices ended without them")


class SpeechStreamEncoder:
    """Speech as server-sent events. See `StreamEncoder`."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def encode(self, events: Sequence[Event]) -> bytes:
        """A piece of audio is an event, and the end is one."""
        frames: list[bytes] = []
        for event in events:
            match event:
                case AudioDelta(audio) if audio:
                    delta = {"type": "speech.audio.delta", "audio": _base64(audio)}
                    frames.append(_frame(msgspec.json.encode(delta)))
                case Spoken(_, _, usage):
                    done = {"type": "speech.audio.done", "usage": _usage(usage)}
                    frames.append(_frame(msgspec.json.encode(done)))
                case _:
                    pass
        return b"".join(frames)

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`: one error event, and nothing is done."""
        return _frame(error_json(error, self._request_id))

    def heartbeat(self) -> bytes:
        """A comment, which clients skip."""
        return COMMENT


def _frame(event: bytes) -> bytes:
    return b"data: " + event + b"\n\n"


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _span(start_s: float, end_s: float) -> dict[str, float]:
    return {"start": start_s, "end": end_s}


def _base64(audio: bytes) -> str:
    return base64.b64encode(audio).decode("ascii")
