"""What a request asks for, in no protocol's words: every API translates to these and forgets itself."""

from typing import Literal

import msgspec

from app.core.conversation import Conversation, RawPrompt
from app.core.output_format import OutputFormat

ImageFormat = Literal["png", "jpeg", "webp"]
ImageEffort = Literal["low", "medium", "high"]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn; None leaves the choice to the model's own defaults.

    The presence and frequency penalties count generated tokens (OpenAI's meaning), the repetition penalty the whole
    context (Hugging Face's meaning). DRY and XTC are llama.cpp's and text-generation-webui's.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    dry_penalty_last_n: int | None = None


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Generate text that continues a conversation or a text.

    `num_choices` answers share one prefill. `top_logprobs` asks for the log-probabilities of the generated tokens and
    of so many candidates beside each. Prompts of one `cache_namespace` share their prefixes, with no others.
    With `max_tokens` 0 there is no answer, only what is said of the prompt. An answer that says the same few tokens
    `repetition_guard` times in a row ends there. `adapter` is one of the model's, by its name.
    """

    prompt: Conversation | RawPrompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    output_format: OutputFormat | None = None
    num_choices: int = 1
    top_logprobs: int | None = None
    cache_namespace: str = ""
    repetition_guard: int | None = None
    adapter: str | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="embed"):
    """Turn each input, a text or its token ids, into a vector; `dimensions` cuts and renormalises it."""

    inputs: list[str | list[int]]
    dimensions: int | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenize"):
    """Say which tokens a prompt has, however many; with `has_pieces` also how the vocabulary spells each."""

    prompt: Conversation | RawPrompt
    has_pieces: bool = False


class DetokenizeRequest(msgspec.Struct, frozen=True, tag="detokenize"):
    """Say which text some tokens are."""

    tokens: list[int]


class TranscriptionRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="transcribe"):
    """Write down what is said in a recording, in its language or in English.

    `audio` is a file as it came, `language` a code or an English name, found out where it is None. The temperature is
    0 at first and raised while the text of a window fails the thresholds, unless one is given. `clip` is where in the
    recording to begin and to end, in seconds. The options and their defaults are those of OpenAI's whisper.
    """

    audio: bytes
    into_english: bool = False
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    best_of: int | None = None
    has_words: bool = False
    condition_on_previous_text: bool = True
    compression_ratio_threshold: float = 2.4
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    clip: tuple[float, float | None] = (0.0, None)


AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class SpeechRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="speak"):
    """Say a text aloud.

    A voice or language of None is the model's choice. Where `is_streamed` the audio comes in pieces that can be played
    while the rest is made, else as one file. The same `seed` makes the same audio.
    """

    text: str
    voice: str | None = None
    audio_format: AudioFormat = "mp3"
    speed: float = 1.0
    language: str | None = None
    is_streamed: bool = False
    has_timings: bool = False
    seed: int = 0


class VoicesRequest(msgspec.Struct, frozen=True, tag="voices"):
    """Say which voices there are; it waits for no speech."""


class ImageRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="image"):
    """Make pictures of a text, or of a text and other pictures (`sources`: files as they came).

    What is None is the model's own choice; the sizes are width and height in pixels. The seed is the first picture's,
    each further one has the next. `mask` is a file that marks what of the first source may change. `num_previews`
    pictures are shown before each is complete. `compression` is from 0 to 100, of a JPEG or WebP file.
    """

    prompt: str
    seed: int
    num_images: int = 1
    size: tuple[int, int] | None = None
    num_steps: int | None = None
    effort: ImageEffort = "medium"
    guidance: float | None = None
    negative_prompt: str | None = None
    sources: tuple[bytes, ...] = ()
    mask: bytes | None = None
    file_format: ImageFormat = "png"
    compression: int | None = None
    num_previews: int = 0


# Answered from the tokenizer alone, in a line of their own: they wait for no generation.
TokenRequest = TokenizeRequest | DetokenizeRequest
Request = (
    GenerationRequest
    | EmbeddingRequest
    | TranscriptionRequest
    | SpeechRequest
    | VoicesRequest
    | ImageRequest
    | TokenRequest
)
Kind = Literal["lm", "vlm", "embeddings", "whisper", "speech", "images"]

KINDS_OF_REQUEST: dict[type[Request], tuple[Kind, ...]] = {
    GenerationRequest: ("lm", "vlm"),
    EmbeddingRequest: ("embeddings",),
    TranscriptionRequest: ("whisper",),
    SpeechRequest: ("speech",),
    VoicesRequest: ("speech",),
    ImageRequest: ("images",),
    TokenizeRequest: ("lm", "vlm"),
    DetokenizeRequest: ("lm", "vlm"),
}
ENDPOINT_OF_KIND: dict[Kind, str] = {
    "lm": "/v1/chat/completions",
    "vlm": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "whisper": "/v1/audio/transcriptions",
    "speech": "/v1/audio/speech",
    "images": "/v1/images/generations",
}
