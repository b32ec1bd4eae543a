"""POST /v1/audio/transcriptions and /v1/audio/translations on the wire.

Source: https://platform.openai.com/docs/api-reference/audio. The options of the model itself have the names that
OpenAI's whisper and faster-whisper have for them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.schemas.base import Unsupported, WireModel, refused_unless

MAX_ATTEMPTS = 8
_LONGEST_S = 1e6

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
Threshold = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def _clip(value: Any) -> Any:
    """Begin and end of a text such as "5" or "5,20.5"."""
    try:
        begin, *rest = map(float, _split(value))
        if len(rest) <= 1 and 0 <= begin < (*rest, _LONGEST_S)[0] <= _LONGEST_S:
            return (begin, rest[0] if rest else None)
    except (TypeError, ValueError):
        pass
    raise PydanticCustomError("clip", "Should be where to begin and, after a comma, where to end, in seconds; one clip")


Granularities = Annotated[list[Literal["word", "segment"]], BeforeValidator(_split)]
Clip = Annotated[tuple[float, float | None], BeforeValidator(_clip)]


class RecordingFields(WireModel):
    """What both forms have in common, beside their file `file`."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: TranscriptFormat | None = None
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    stream: bool | None = None
    # The model's own, as OpenAI's whisper calls them.
    best_of: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = None
    condition_on_previous_text: bool = True
    compression_ratio_threshold: Threshold = 2.4
    logprob_threshold: Threshold = -1.0
    no_speech_threshold: Threshold = 0.6
    clip_timestamps: Clip = (0.0, None)
    # OpenAI's other models have these.
    chunking_strategy: Annotated[str | None, refused_unless("auto")] = None
    include: Unsupported = None
    keywords: Unsupported = None
    known_speaker_names: Unsupported = None
    known_speaker_references: Unsupported = None
    languages: Unsupported = None
    # faster-whisper's and vLLM's, and not supported yet.
    beam_size: Annotated[int | None, refused_unless(1)] = None
    hallucination_silence_threshold: Unsupported = None
    hotwords: Annotated[str | None, refused_unless("")] = None
    patience: Unsupported = None
    to_language: Unsupported = None
    vad_filter: Annotated[bool | None, refused_unless(False)] = None
    without_timestamps: Annotated[bool | None, refused_unless(False)] = None
    max_completion_tokens: Unsupported = None
    seed: Unsupported = None
    top_p: Annotated[float | None, refused_unless(1.0)] = None
    top_k: Annotated[int | None, refused_unless(0, -1)] = None
    min_p: Annotated[float | None, refused_unless(0.0)] = None
    frequency_penalty: Annotated[float | None, refused_unless(0.0)] = None
    presence_penalty: Annotated[float | None, refused_unless(0.0)] = None
    repetition_penalty: Annotated[float | None, refused_unless(1.0)] = None


class TranscriptionFields(RecordingFields):
    """The fields of a form for a transcript in the language of the recording."""

    timestamp_granularities: Granularities | None = None


class TranslationFields(RecordingFields):
    """The fields of a form for a transcript in English."""

    timestamp_granularities: Unsupported = None


class DurationUsage(BaseModel):
    """What a request cost: begun seconds of audio."""

    type: Literal["duration"]
    seconds: int


class Transcript(BaseModel):
    """A reply in the format json."""

    text: str
    usage: DurationUsage


class TranscriptSegment(BaseModel):
    """A piece of the recording; the space before its text belongs to it. `seek` is in hundredths of a second."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptWord(BaseModel):
    """A word and when it is said."""

    word: str
    start: float
    end: float


class VerboseTranscript(BaseModel):
    """A reply in the format verbose_json: with segments, with words, or with both, as it was asked for."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[TranscriptSegment] | None = None
    words: list[TranscriptWord] | None = None
    usage: DurationUsage
