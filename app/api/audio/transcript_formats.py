"""Transcripts as clients want them: JSON, text, subtitles and events, all made of the same events of the model's."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from app.api.openai_errors import error_json
from app.api.replies import COMMENT
from app.core.events import Event, Segment, TextDelta, Transcribed, Usage, Word
from app.errors import ServerError
from app.schemas.transcriptions import TranscriptFormat

# JSON has no minus infinity, which is what mlx_whisper gives where its own rules forbid a token that it took.
_IMPOSSIBLE = -1000.0


@dataclass(frozen=True, slots=True)
class TranscriptReply:
    """What is asked for about a transcript, and the reply in one piece."""

    format: TranscriptFormat
    is_translation: bool = False
    has_segments: bool = True
    has_words: bool = False

    @property
    def media_type(self) -> str:
        """The reply's."""
        return "application/json" if self.format in ("json", "verbose_json") else "text/plain; charset=utf-8"

    def whole(self, events: list[Event]) -> bytes:
        """The reply made of all events."""
        segments = [event for event in events if isinstance(event, Segment)]
        text = "".join(event.text for event in events if isinstance(event, TextDelta)).strip()
        match events[-1], self.format:
            case Transcribed() as end, "json":
                return msgspec.json.encode({"text": text, "usage": _duration(end)})
            case Transcribed() as end, "verbose_json":
                return msgspec.json.encode(self._verbose(text, segments, end))
            case Transcribed(), "text":
                return f"{text}\n".encode()
            case Transcribed(), "srt":
                return _srt(segments).encode()
            case Transcribed(), "vtt":
                return _vtt(segments).encode()
            case _:
                raise ValueError("a transcription ended without its last event")

    def _verbose(self, text: str, segments: list[Segment], end: Transcribed) -> dict[str, object]:
        reply: dict[str, object] = {
            "task": "translate" if self.is_translation else "transcribe",
            # OpenAI names the language of the text.
            "language": "english" if self.is_translation else end.language,
            "duration": end.duration_s,
            "text": text,
        }
        if self.has_segments:
            reply["segments"] = [_segment(segment) for segment in segments]
        if self.has_words:
            reply["words"] = [_word(word) for segment in segments for word in segment.words or ()]
        return reply | {"usage": _duration(end)}


class TranscriptStream:
    """A transcript as server-sent events, segment by segment; see `StreamEncoder`."""

    def __init__(self, reply: TranscriptReply, request_id: str) -> None:
        self._has_segments = reply.format == "verbose_json"
        self._request_id = request_id
        self._text = ""
        # White space that is sent when more follows: none begins or ends a text.
        self._held = ""

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(_frame(shown) for event in events if (shown := self._shown(event)) is not None)

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`."""
        return b"data: " + error_json(error, self._request_id) + b"\n\n"

    def heartbeat(self) -> bytes:
        """See `StreamEncoder.heartbeat`."""
        return COMMENT

    def _shown(self, event: Event) -> dict[str, object] | None:
        match event:
            case TextDelta(text):
                delta = self._trimmed(text)
                return {"type": "transcript.text.delta", "delta": delta} if delta else None
            case Segment(text=text) if text and self._has_segments:
                # The client libraries expect a speaker, and a Whisper model knows none.
                span: dict[str, object] = {"start": event.start_s, "end": event.end_s, "text": text, "speaker": ""}
                return {"type": "transcript.text.segment", "id": str(event.id)} | span
            case Transcribed(_, _, usage):
                return {"type": "transcript.text.done", "text": self._text, "usage": _tokens(usage)}
            case _:
                return None

    def _trimmed(self, piece: str) -> str:
        """What of the text can be sent now."""
        whole = self._held + piece if self._text else piece.lstrip()
        delta = whole.rstrip()
        self._held = whole[len(delta) :]
        self._text += delta
        return delta


def _frame(content: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _duration(end: Transcribed) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(end.duration_s)}


def _tokens(usage: Usage) -> dict[str, object]:
    read, written = usage.prompt_tokens, usage.completion_tokens
    return {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}


def _segment(segment: Segment) -> dict[str, object]:
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob if math.isfinite(segment.avg_logprob) else _IMPOSSIBLE,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _word(word: Word) -> dict[str, object]:
    return {"word": word.text.strip(), "start": word.start_s, "end": word.end_s}


def _srt(segments: Iterable[Segment]) -> str:
    return "".join(f"{number}\n{_cue(segment, _srt_time)}\n\n" for number, segment in enumerate(segments, start=1))


def _vtt(segments: Iterable[Segment]) -> str:
    return "WEBVTT\n\n" + "".join(f"{_cue(segment, _vtt_time)}\n\n" for segment in segments)


def _cue(segment: Segment, time: Callable[[float], str]) -> str:
    # The arrow would end the line of times in a text.
    text = segment.text.strip().replace("-->", "->")
    return f"{time(segment.start_s)} --> {time(segment.end_s)}\n{text}"


def _srt_time(time_s: float) -> str:
    hours, minutes, seconds, thousandths = _parts(time_s)
    return f"{hours:02}:{minutes:02}:{seconds:02},{thousandths:03}"


def _vtt_time(time_s: float) -> str:
    hours, minutes, seconds, thousandths = _parts(time_s)
    return f"{f'{hours:02}:' if hours else ''}{minutes:02}:{seconds:02}.{thousandths:03}"


def _parts(time_s: float) -> tuple[int, int, int, int]:
    seconds, thousandths = divmod(round(1000 * time_s), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return hours, minutes, seconds, thousandths
