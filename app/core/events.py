"""What a handler says about a running request: every protocol encodes from these, none of them is protocol-shaped."""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Token counts of one finished request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ImageUsage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What image requests count: tokens of the prompt, and patches of 16 x 16 pixels of the images in and out."""

    text_tokens: int
    source_tokens: int
    image_tokens: int


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token that the model could choose: its bytes, and the natural logarithm of its probability."""

    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A generated token, and the likeliest candidates for its place, the likeliest first."""

    token: bytes
    logprob: float
    top: list[Candidate]


class PromptToken(msgspec.Struct, frozen=True, array_like=True):
    """A token of the prompt, as `TokenLogprob`; nothing comes before the first, so its probability is None."""

    token: bytes
    logprob: float | None
    top: list[Candidate]


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """The prompt is accepted; what follows can only fail for reasons of ours."""

    prompt_tokens: int
    cached_tokens: int = 0


class PrefillProgress(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """`done` of `total` prompt tokens are in the KV cache."""

    done: int
    total: int


class EchoDelta(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """A piece of the prompt, which a choice's answer begins with: its text in one piece, its tokens as they are known.

    `logprobs` are None when nobody asked.
    """

    text: str
    choice: int = 0
    logprobs: list[PromptToken] | None = None


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """A piece of a choice's answer: whole code points. Empty only when it brings log-probabilities.

    `logprobs` are of the tokens whose text became certain with this piece; None when nobody asked.
    """

    text: str
    choice: int = 0
    logprobs: list[TokenLogprob] | None = None


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, tag="r", gc=False):
    """A piece of what a choice thinks before or between its answer: whole code points."""

    text: str
    choice: int = 0


class ToolCallStarted(msgspec.Struct, frozen=True, array_like=True, tag="k", gc=False):
    """A choice calls a function: its `index`-th call, counted from 0. `id` is unique to the call."""

    index: int
    id: str
    name: str
    choice: int = 0


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, tag="a", gc=False):
    """A piece of the arguments of the call that was started last: the pieces of one call join to a JSON object."""

    index: int
    arguments: str
    choice: int = 0


class ToolCallEnded(msgspec.Struct, frozen=True, array_like=True, tag="z", gc=False):
    """The call that was started last is complete. One that was cut off has no such event."""

    index: int
    choice: int = 0


class ChoiceEnded(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """A choice is complete; "tool_calls" when it ended by itself and made a call."""

    reason: FinishReason
    choice: int = 0
    stop_sequence: str | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """The last event of a generation: every choice has ended."""

    usage: Usage


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """The only event of an embedding request: one little-endian float32 vector per input, in input order."""

    vectors: list[bytes]
    usage: Usage


class Word(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A spoken word with its place in the recording; the space before it belongs to it."""

    text: str
    start_s: float
    end_s: float
    probability: float


class Segment(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """A piece of a recording and what is said there; `text` is empty where it turned out to be nothing.

    `seek` is where the window begins that it was heard in, in hundredths of a second; the four numbers after the tokens
    are those of the whole window. `words` only when asked for.
    """

    id: int
    seek: int
    start_s: float
    end_s: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None = None


class Transcribed(msgspec.Struct, frozen=True, array_like=True, tag="w"):
    """The last event of a transcription, after its `Segment`s and the text of them in `TextDelta`s.

    `language` is the recording's, in English and small letters.
    """

    language: str
    duration_s: float
    usage: Usage


class ImageProgress(msgspec.Struct, frozen=True, array_like=True, tag="i", gc=False):
    """`step` of `num_steps` of a picture are done; pictures are counted from 0."""

    image: int
    step: int
    num_steps: int


class ImagePreview(msgspec.Struct, frozen=True, array_like=True, tag="q", gc=False):
    """What a picture may become: a file of its format; the previews of one picture are counted from 0."""

    image: int
    number: int
    data: bytes
    size: tuple[int, int]


class ImageMade(msgspec.Struct, frozen=True, array_like=True, tag="m", gc=False):
    """A complete picture: a file of the format asked for, its width and height, and what it cost."""

    image: int
    data: bytes
    size: tuple[int, int]
    usage: ImageUsage


class ImagesFinished(msgspec.Struct, frozen=True, array_like=True, tag="y", gc=False):
    """The last event of an image request: every picture is made."""

    usage: ImageUsage


class Tokenized(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    """The only event of a tokenize request; `pieces` only when asked for."""

    tokens: list[int]
    pieces: list[str] | None = None


class Detokenized(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """The only event of a detokenize request."""

    text: str


class TimedText(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A word or a phoneme, and where it is in the audio."""

    text: str
    start_s: float
    end_s: float


class TimedViseme(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The shape of a mouth, by its number, and where it is in the audio."""

    viseme: int
    start_s: float
    end_s: float


class SpeechTimings(msgspec.Struct, frozen=True, array_like=True):
    """Where things are in a piece of audio: each list covers it whole, one entry ends where the next starts."""

    words: list[TimedText]
    phonemes: list[TimedText]
    visemes: list[TimedViseme]


class AudioDelta(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """A piece of speech: the bytes that follow in the file, possibly none; `timings` only when asked for."""

    audio: bytes
    timings: SpeechTimings | None = None


class Spoken(msgspec.Struct, frozen=True, array_like=True, tag="v", gc=False):
    """The last event of speech. Its usage counts phonemes in and frames of the model's out."""

    sample_rate: int
    num_samples: int
    usage: Usage


class Voice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A voice of a model; the language is a code like en-US. None where the voice's name does not say it."""

    id: str
    language: str | None
    gender: Literal["female", "male"] | None


class VoicesListed(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """The only event of a request for the voices."""

    voices: list[Voice]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The request failed inside the worker; `error` names the class in `app.errors`."""

    error: str
    message: str
    param: str | None = None


Event = (
    Started
    | PrefillProgress
    | EchoDelta
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallEnded
    | ChoiceEnded
    | Finished
    | Embedded
    | Segment
    | Transcribed
    | AudioDelta
    | Spoken
    | VoicesListed
    | ImageProgress
    | ImagePreview
    | ImageMade
    | ImagesFinished
    | Tokenized
    | Detokenized
    | Failed
)
# After one of these nothing more is said about a request.
LastEvent = (
    Finished | Embedded | Transcribed | Spoken | VoicesListed | ImagesFinished | Tokenized | Detokenized | Failed
)
