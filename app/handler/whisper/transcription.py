"""One recording on its way through a Whisper model: a window of half a minute at a time, in bounded steps.

The options, the thresholds and every number are those of `mlx_whisper.transcribe`, which does all of it in one call.
Source: https://github.com/openai/whisper/blob/main/whisper/transcribe.py
"""

import codecs
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_whisper.audio import FRAMES_PER_SECOND, N_FRAMES, SAMPLE_RATE, TOKENS_PER_SECOND
from mlx_whisper.decoding import DecodingOptions, DecodingResult
from mlx_whisper.load_models import load_model
from mlx_whisper.timing import add_word_timestamps, find_alignment
from mlx_whisper.tokenizer import LANGUAGES, get_tokenizer
from mlx_whisper.whisper import Whisper
from numpy.typing import NDArray

from app.core.events import Event, Segment, Started, TextDelta, Transcribed, Usage
from app.core.requests import TranscriptionRequest
from app.handler import device
from app.handler.whisper.segments import Cutting, Window, cut, end_of_speech_s, finished
from app.handler.whisper.spectrogram import Spectrogram

_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# What was said so warily is no good context for the next window.
_WARM = 0.5
# A window that ends where it begins is heard again with its text as context; a model may never get out of that.
_HEARINGS = 3

Steps = Generator[list[Event], None, None]


@dataclass(frozen=True, slots=True)
class PreparedTranscription:
    """A transcription as numbers: `samples` are 16000 a second, `language` is a code that the model knows or None."""

    samples: NDArray[np.float32]
    prompt: list[int]
    language: str | None
    asked: TranscriptionRequest

    @property
    def usage(self) -> Usage:
        """What is read: the encoder's positions, and the prompt."""
        return Usage(-(-len(self.samples) * TOKENS_PER_SECOND // SAMPLE_RATE) + len(self.prompt))


class EncodedAudio:
    """What mlx_whisper's word alignment asks of a model, for a window that is encoded already."""

    def __init__(self, model: Whisper) -> None:
        self._decoder = model.decoder
        self.alignment_heads = model.alignment_heads

    def forward_with_cross_qk(self, features: mx.array, tokens: mx.array) -> tuple[mx.array, Any]:
        """The logits of `tokens` and each layer's attention to the audio."""
        logits, _, attention = self._decoder(tokens, features)
        return logits, attention


class Transcription:
    """A request between its first and its last window. Owned by the worker's main thread."""

    def __init__(self, model: Whisper, dtype: mx.Dtype, prepared: PreparedTranscription) -> None:
        self._model = model
        self._dtype = dtype
        self._asked = prepared.asked
        self._prepared = prepared
        self._spectrogram = Spectrogram(prepared.samples, model.dims.n_mels)
        self._language = prepared.language or "en"
        self._tokens = list(prepared.prompt)
        self._context_begin = 0
        self._num_segments = 0
        self._speech_end_s = 0.0
        # A character may begin in one segment and end in the next.
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    def steps(self) -> Steps:
        """Each step is at most one pass over a window, and gives what it brought; the last one `Transcribed`."""
        usage = self._prepared.usage
        yield [Started(usage.prompt_tokens)]
        while self._spectrogram.compute():
            yield []
        if self._prepared.language is None and self._model.is_multilingual:
            self._language = self._detect_language()
            yield []
        self._tokenizer = get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=self._language,
            task=self._task,
        )
        yield from self._windows()
        rest = self._text.decode(b"", final=True)
        ending: list[Event] = [TextDelta(rest)] if rest else []
        usage = Usage(usage.prompt_tokens, len(self._tokens) - len(self._prepared.prompt))
        duration_s = len(self._prepared.samples) / SAMPLE_RATE
        yield [*ending, Transcribed(LANGUAGES[self._language], duration_s, usage)]

    @property
    def _task(self) -> str:
        return "translate" if self._asked.into_english else "transcribe"

    def _detect_language(self) -> str:
        beginning = self._spectrogram.window(0, N_FRAMES).astype(self._dtype)
        _, probabilities = self._model.detect_language(beginning)
        by_code = cast("dict[str, float]", probabilities)
        return max(by_code, key=by_code.__getitem__)

    def _windows(self) -> Steps:
        begin_s, end_s = self._asked.clip
        seek, end = round(begin_s * FRAMES_PER_SECOND), self._spectrogram.num_frames
        if end_s is not None:
            end = min(end, round(end_s * FRAMES_PER_SECOND))
        num_hearings = 0
        while seek < end:
            window = Window(seek, min(N_FRAMES, end - seek), self._model.dims.n_audio_ctx)
            features = self._encode(window)
            result = yield from self._decode(features)
            num_hearings += 1
            if self._is_silence(result):
                seek += window.num_frames
            else:
                cutting = self._cut(window, features, result)
                yield self._accept(cutting, result)
                seek = cutting.next_seek
            if seek == window.seek and num_hearings == _HEARINGS:
                seek += window.num_frames
            if seek != window.seek:
                num_hearings = 0

    def _encode(self, window: Window) -> mx.array:
        """What the decoder listens to, once for all attempts and for the words."""
        mel = self._spectrogram.window(window.seek, window.num_frames).astype(self._dtype)
        return self._model.encoder(mel[None])[0]

    def _decode(self, features: mx.array) -> Generator[list[Event], None, DecodingResult]:
        """Attempts at rising temperatures, until one looks like speech; the last one counts in any case."""
        given = self._asked.temperature
        *temperatures, last = (given,) if given is not None else _TEMPERATURES
        for temperature in temperatures:
            result = self._attempt(features, temperature)
            if not self._looks_wrong(result):
                return result
            yield []
        return self._attempt(features, last)

    def _attempt(self, features: mx.array, temperature: float) -> DecodingResult:
        options = DecodingOptions(
            task=self._task,
            language=self._language,
            temperature=temperature,
            best_of=self._asked.best_of if temperature > 0 else None,
            prompt=self._tokens[self._context_begin :],
            fp16=self._dtype == mx.float16,
        )
        return cast("DecodingResult", self._model.decode(features, options))

    def _looks_wrong(self, result: DecodingResult) -> bool:
        """Repetitive, or unlikely, and not silence."""
        is_wrong = (
            result.compression_ratio > self._asked.compression_ratio_threshold
            or result.avg_logprob < self._asked.logprob_threshold
        )
        return is_wrong and not result.no_speech_prob > self._asked.no_speech_threshold

    def _is_silence(self, result: DecodingResult) -> bool:
        return (
            result.no_speech_prob > self._asked.no_speech_threshold
            and not result.avg_logprob > self._asked.logprob_threshold
        )

    def _cut(self, window: Window, features: mx.array, result: DecodingResult) -> Cutting:
        cutting = cut(window, result.tokens, self._tokenizer.timestamp_begin)
        if not self._asked.has_words:
            return cutting
        add_word_timestamps(
            segments=cast("list[dict[Any, Any]]", cutting.drafts),
            model=EncodedAudio(self._model),
            tokenizer=self._tokenizer,
            mel=features,
            num_frames=window.num_frames,
            last_speech_timestamp=self._speech_end_s,
        )
        end_s = end_of_speech_s(cutting.drafts)
        if end_s is None:
            return cutting
        self._speech_end_s = end_s
        if cutting.is_whole or end_s <= window.start_s:
            return cutting
        return Cutting(cutting.drafts, round(end_s * FRAMES_PER_SECOND), cutting.is_whole)

    def _accept(self, cutting: Cutting, result: DecodingResult) -> list[Event]:
        """Number the segments and keep their tokens as context."""
        events: list[Event] = []
        for draft in cutting.drafts:
            text = self._tokenizer.decode([token for token in draft["tokens"] if token < self._tokenizer.eot])
            segment = finished(draft, self._num_segments, text, result, has_words=self._asked.has_words)
            self._num_segments += 1
            self._tokens += segment.tokens
            events += [*self._deltas(segment), segment]
        if not self._asked.condition_on_previous_text or result.temperature > _WARM:
            self._context_begin = len(self._tokens)
        return events

    def _deltas(self, segment: Segment) -> Iterator[TextDelta]:
        plain = [token for token in segment.tokens if token < self._tokenizer.timestamp_begin]
        if delta := self._text.decode(self._tokenizer.encoding.decode_bytes(plain)):
            yield TextDelta(delta)


def load(folder: Path, dtype: mx.Dtype) -> Whisper:
    """A model whose weights are in the form that audio of `dtype` is heard with."""
    model = load_model(str(folder), dtype)
    if dtype == mx.float32:
        device.prepare_weights(model)
    else:
        # A file may have others than the library's own.
        model.set_dtype(dtype)
    return model


def warm_up(model: Whisper, dtype: mx.Dtype) -> None:
    """Run each part once: what is compiled at its first use is compiled then. It also shows whether the model can."""
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language="en")
    features = model.encoder(mx.zeros((1, N_FRAMES, model.dims.n_mels), dtype))[0]
    model.decode(features, DecodingOptions(language="en", sample_len=2, fp16=dtype == mx.float16))
    find_alignment(EncodedAudio(model), tokenizer, tokenizer.encode(" hello"), features, N_FRAMES)
