"""POST /v1/audio/speech and GET /v1/audio/voices on the wire.

Source: https://platform.openai.com/docs/api-reference/audio/createSpeech
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from app.schemas.base import Seed, WireModel, refused_unless

# OpenAI's limit.
MAX_CHARACTERS = 4096

Name = Annotated[str, Field(min_length=1, max_length=256)]
ResponseFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class VoiceId(WireModel):
    """A voice as an object."""

    id: Name


def _form_of_voice(value: object) -> str:
    return "a name" if isinstance(value, str) else "an object"


Voice = Annotated[Annotated[Name, Tag("a name")] | Annotated[VoiceId, Tag("an object")], Discriminator(_form_of_voice)]


class SpeechBody(WireModel):
    """The body of a speech request; `language`, `seed` and `include_visemes` are this server's own."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {"examples": [{"model": "kokoro", "input": "Hello world.", "voice": "af_heart"}]}
    }

    model: str | None = None
    input: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    voice: Voice | None = None
    response_format: ResponseFormat | None = None
    speed: Annotated[float, Field(ge=0.25, le=4, allow_inf_nan=False)] | None = None
    instructions: Annotated[str | None, refused_unless("")] = None
    stream_format: Literal["audio", "sse"] | None = None
    language: Name | None = None
    seed: Seed | None = None
    include_visemes: bool | None = None


class VoicesQuery(WireModel):
    """The query of a request for the voices."""

    model: str | None = None


class TimedWord(BaseModel):
    """A word of the input with its punctuation, and its seconds."""

    word: str
    start: float
    end: float


class TimedPhoneme(BaseModel):
    """A sound in the model's phonetic letters, or "sil" for none, and its seconds."""

    phoneme: str
    start: float
    end: float


class TimedViseme(BaseModel):
    """A shape of the mouth by its number in Azure's list, 0 to 21 with 0 for silence, and its seconds."""

    viseme: int
    start: float
    end: float


class SpeechUsage(BaseModel):
    """Phonemes said, and frames of audio (40 a second)."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class TimedSpeech(BaseModel):
    """Speech with `include_visemes`: a file in base64, and three lists that each cover its duration without a gap."""

    audio: str
    format: ResponseFormat
    sample_rate: int
    duration: float
    words: list[TimedWord]
    phonemes: list[TimedPhoneme]
    visemes: list[TimedViseme]
    usage: SpeechUsage


class VoiceObject(BaseModel):
    """A voice; what its name does not say is null."""

    id: str
    object: Literal["voice"]
    language: str | None
    gender: Literal["female", "male"] | None


class VoicesReply(BaseModel):
    """The voices of a model."""

    object: Literal["list"]
    model: str
    data: list[VoiceObject]
