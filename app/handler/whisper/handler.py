"""The handler of Whisper models: recordings are written down one window at a time, several of them by turns."""

import json
import time
from dataclasses import fields
from pathlib import Path

import mlx.core as mx
import msgspec
from loguru import logger
from mlx_whisper.audio import SAMPLE_RATE
from mlx_whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, get_tokenizer
from mlx_whisper.whisper import ModelDimensions, Whisper

from app.core.events import Transcribed
from app.core.failures import of_exception, to_event
from app.core.frames import ModelInfo
from app.core.requests import TranscriptionRequest
from app.errors import InvalidRequest, ModelLoadError
from app.handler import device
from app.handler.base import Handler
from app.handler.recording import read_recording
from app.handler.whisper.transcription import PreparedTranscription, Steps, Transcription, load, warm_up

_SHORTEST_S = 0.1
# The model reads the last 223 tokens of a prompt.
_PROMPT_CHARACTERS = 8192


class WhisperHandler(Handler[TranscriptionRequest, PreparedTranscription]):
    """Transcriptions by one model; a turn is one step of one of them."""

    _model: Whisper
    _dtype: mx.Dtype

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        self._running: dict[int, Steps] = {}
        self._freed_memory = device.FreedMemory()
        _check_config(self.folder)
        # MLX's CPU back end is fast with float32 only; elsewhere half precision is what the library takes.
        self._dtype = mx.float32 if device.is_cpu() else mx.float16
        try:
            self._model = load(self.folder, self._dtype)
            if self.spec.warmup:
                warm_up(self._model, self._dtype)
        # The library raises whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelLoadError(f"'{self.spec.model_path}' cannot be loaded: {reason}") from error
        load_s = time.monotonic() - started
        return ModelInfo("whisper", self._model.dims.n_text_ctx, "whisper", load_s, device.describe())

    def prepare(self, request: TranscriptionRequest) -> PreparedTranscription:
        """See `Handler.prepare`."""
        language = self._language(request)
        samples = read_recording(request.audio, SAMPLE_RATE, self.spec.max_audio_seconds)
        duration_s = len(samples) / SAMPLE_RATE
        if duration_s < _SHORTEST_S:
            raise InvalidRequest(f"'file' is shorter than {_SHORTEST_S:g} s.", param="file")
        if request.clip[0] >= duration_s:
            raise InvalidRequest(
                f"The clip begins after the recording's end at {duration_s:g} s.", param="clip_timestamps"
            )
        prompt = self._tokens(request.prompt) if request.prompt is not None else []
        return PreparedTranscription(samples, prompt, language, msgspec.structs.replace(request, audio=b""))

    def submit(self, request_id: int, prepared: PreparedTranscription) -> None:
        """See `Handler.submit`."""
        self._running[request_id] = Transcription(self._model, self._dtype, prepared).steps()

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        self._running.pop(request_id, None)

    def turn(self) -> bool:
        """See `Handler.turn`."""
        if self._running:
            request_id = next(iter(self._running))
            # To the end of the line, so that a short recording does not wait for a long one.
            steps = self._running[request_id] = self._running.pop(request_id)
            self._step(request_id, steps)
        return bool(self._running)

    def rest(self, idle_s: float) -> float | None:
        """See `Handler.rest`."""
        return self._freed_memory.give_back(idle_s)

    def _step(self, request_id: int, steps: Steps) -> None:
        try:
            events = next(steps)
        except Exception as error:
            logger.exception("a step of a transcription failed")
            del self._running[request_id]
            self.emit(request_id, to_event(of_exception(error)))
            return
        for event in events:
            self.emit(request_id, event)
        if events and isinstance(events[-1], Transcribed):
            del self._running[request_id]

    def _language(self, request: TranscriptionRequest) -> str | None:
        """The code of the language that was asked for."""
        if request.language is None:
            return None
        asked = request.language.lower()
        code = TO_LANGUAGE_CODE.get(asked, asked)
        known = list(LANGUAGES)[: self._model.num_languages] if self._model.is_multilingual else ["en"]
        if code in known:
            return code
        names = "only English, 'en'" if len(known) == 1 else f"{len(known)} languages by their codes, such as 'en'"
        raise InvalidRequest(f"This model knows {names}, and not '{request.language[:40]}'.", param="language")

    def _tokens(self, prompt: str) -> list[int]:
        """A prompt as mlx_whisper reads it; markers spelled out in it are plain text."""
        tokenizer = get_tokenizer(self._model.is_multilingual, num_languages=self._model.num_languages)
        return tokenizer.encode(" " + prompt.strip()[-_PROMPT_CHARACTERS:], disallowed_special=())


def _check_config(folder: Path) -> None:
    """Errors: ModelLoadError for a folder that holds Whisper's weights in another form."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if missing := [field.name for field in fields(ModelDimensions) if field.name not in config]:
        raise ModelLoadError(
            f"'{folder.name}' is no Whisper model in MLX's form: its config.json has no {missing[0]}. Take one of"
            " mlx-community's, such as mlx-community/whisper-large-v3-turbo."
        )
