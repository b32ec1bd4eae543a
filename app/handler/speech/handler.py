"""The handler of Kokoro's speech: a turn says one segment, about a sentence, of one request."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from loguru import logger
from mlx_audio.tts.models.kokoro.kokoro import Model
from mlx_audio.tts.models.kokoro.pipeline import KokoroPipeline
from mlx_audio.tts.models.kokoro.voice import load_voice_tensor
from mlx_audio.tts.utils import load_model
from numpy.typing import NDArray

from app.core.events import AudioDelta, Spoken, Usage, VoicesListed
from app.core.failures import of_exception, to_event
from app.core.frames import ModelInfo
from app.core.requests import SpeechRequest, VoicesRequest
from app.errors import InvalidRequest, ModelLoadError
from app.handler import device
from app.handler.base import Handler
from app.handler.speech.encoder import Encoder, new_encoder, to_int16
from app.handler.speech.english import EnglishPronouncer
from app.handler.speech.script import Segment, SpokenWord, cut
from app.handler.speech.timing import Place, time_segment
from app.handler.speech.voices import English, choose_language, choose_voice, read_voices

# A voice has a row for each number of phonemes up to this.
_MOST_PHONEMES = 510
_SEEDS = 2**64
_WARM_UP = Segment("həlˈO.", ())


@dataclass(frozen=True, slots=True)
class PreparedSpeech:
    """A request as phonemes, with the voice it is said in; at least one segment."""

    segments: list[Segment]
    voice: str
    request: SpeechRequest


@dataclass(slots=True)
class Speech:
    """A request that is being said. Owned by the worker's main thread."""

    asked: PreparedSpeech
    encoder: Encoder
    num_said: int = 0
    num_samples: int = 0
    num_frames: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all is said."""
        return self.num_said == len(self.asked.segments)


@dataclass(frozen=True, slots=True)
class Said:
    """A segment as the model said it, and its frames: before it, of each phoneme, after it."""

    samples: NDArray[np.float32]
    frames: list[int]


class SpeechScript:
    """Turns requests into phonemes. Owned by the prepare thread once the model is loaded."""

    def __init__(self, folder: Path, vocabulary: frozenset[str], most_phonemes: int) -> None:
        self.voices = read_voices(folder)
        self._vocabulary = vocabulary
        self._most_phonemes = most_phonemes
        # Made when they are first needed: a dictionary takes a quarter of a second and 40 MB.
        self._pronouncers: dict[English, EnglishPronouncer] = {}

    def prepare(self, request: SpeechRequest) -> PreparedSpeech:
        """Errors: InvalidRequest for a voice or language there is not, and for a text of which nothing is said."""
        voice = choose_voice(self.voices, request.voice)
        words = self.pronounce(request.text, choose_language(request.language, voice))
        segments = cut(words, self._most_phonemes)
        if not segments:
            raise InvalidRequest("'input' has nothing that can be pronounced in English.", param="input")
        return PreparedSpeech(segments, voice.id, request)

    def pronounce(self, text: str, language: English) -> list[SpokenWord]:
        """The words of a text in the phonemes that the model knows."""
        if language not in self._pronouncers:
            self._pronouncers[language] = EnglishPronouncer(is_british=language == "en-GB")
        words = self._pronouncers[language].pronounce(text)
        return [SpokenWord(word.text, "".join(filter(self._vocabulary.__contains__, word.phonemes))) for word in words]


class SpeechHandler(Handler[SpeechRequest | VoicesRequest, PreparedSpeech]):
    """Speech of one model; requests that run at once take turns."""

    _model: Model
    _script: SpeechScript

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        self._line: dict[int, Speech] = {}
        self._packs: dict[str, mx.array] = {}
        try:
            self._model = self._load_model()
            device.prepare_weights(self._model)
            most_phonemes = min(_MOST_PHONEMES, self._model.context_length - 2)
            self._script = SpeechScript(self.folder, frozenset(self._model.vocab), most_phonemes)
            if self.spec.warmup:
                self._speak(_WARM_UP, choose_voice(self._script.voices, None).id, 1.0, 0)
                self._script.pronounce("hello", "en-US")
        except ModelLoadError:
            raise
        # The libraries raise whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelLoadError(f"'{self.spec.model_path}' cannot be loaded: {reason}") from error
        return ModelInfo("speech", most_phonemes, "kokoro", time.monotonic() - started, device.describe())

    def prepare(self, request: SpeechRequest | VoicesRequest) -> PreparedSpeech | VoicesListed:
        """See `Handler.prepare`."""
        if isinstance(request, VoicesRequest):
            return VoicesListed(self._script.voices)
        return self._script.prepare(request)

    def submit(self, request_id: int, prepared: PreparedSpeech) -> None:
        """See `Handler.submit`."""
        request = prepared.request
        # What is said in one piece may as well have a header that says how long it is.
        is_streamed = request.is_streamed and len(prepared.segments) > 1
        encoder = new_encoder(request.audio_format, self._model.sample_rate, is_streamed=is_streamed)
        self._line[request_id] = Speech(prepared, encoder)

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        self._line.pop(request_id, None)

    def turn(self) -> bool:
        """See `Handler.turn`."""
        if self._line:
            request_id = next(iter(self._line))
            # To the end of the line, which it leaves when all is said.
            speech = self._line[request_id] = self._line.pop(request_id)
            try:
                self._say_next(request_id, speech)
            except Exception as error:
                logger.exception("a segment could not be said")
                self.emit(request_id, to_event(of_exception(error)))
                del self._line[request_id]
        return bool(self._line)

    def _load_model(self) -> Model:
        model = load_model(self.folder, model_type="kokoro")
        if not isinstance(model, Model):
            raise TypeError("it is no Kokoro")
        return model

    def _say_next(self, request_id: int, speech: Speech) -> None:
        """Say a segment; with the last one the request is answered."""
        asked = speech.asked
        segment = asked.segments[speech.num_said]
        # Of its own for each segment: what runs beside it changes nothing.
        seed = (asked.request.seed + speech.num_said) % _SEEDS
        said = self._speak(segment, asked.voice, asked.request.speed, seed)
        timings = None
        if asked.request.has_timings:
            half_frame = said.samples.size // (2 * sum(said.frames))
            timings = time_segment(segment, said.frames, Place(speech.num_samples, half_frame, self._model.sample_rate))
        speech.num_said += 1
        speech.num_samples += said.samples.size
        speech.num_frames += sum(said.frames)
        audio = speech.encoder.feed(to_int16(said.samples))
        if speech.is_over:
            audio += speech.encoder.finish()
        self.emit(request_id, AudioDelta(audio, timings))
        if speech.is_over:
            usage = Usage(sum(len(one.phonemes) for one in asked.segments), speech.num_frames)
            self.emit(request_id, Spoken(self._model.sample_rate, speech.num_samples, usage))
            del self._line[request_id]

    def _speak(self, segment: Segment, voice: str, speed: float, seed: int) -> Said:
        """Errors: ValueError when the samples are no numbers."""
        if voice not in self._packs:
            self._packs[voice] = load_voice_tensor(str(self.folder / "voices" / f"{voice}.safetensors"))
        # The noise in a voice is drawn from MLX's one generator.
        mx.random.seed(seed)
        # The library says Number, which Python's own numbers are not to a type checker.
        pace: Any = speed
        output = KokoroPipeline.infer(self._model, segment.phonemes, self._packs[voice], pace)
        samples = np.array(output.audio.astype(mx.float32)).reshape(-1)
        # Each segment has a shape of its own, whose memory no other can use.
        mx.clear_cache()
        if not np.isfinite(samples).all():
            raise ValueError("the model's numbers overflow")
        return Said(samples, output.pred_dur.tolist())
