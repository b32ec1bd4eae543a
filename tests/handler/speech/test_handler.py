import io
import shutil
import sys
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest

from app.core.events import AudioDelta, Failed, Spoken, VoicesListed
from app.core.model_kind import kind_of
from app.core.requests import SpeechRequest, VoicesRequest
from app.errors import InvalidRequest, ModelLoadError
from app.handler.open import open_handler
from app.handler.speech.encoder import to_int16
from app.handler.speech.handler import SpeechHandler
from app.settings import ModelSpec
from tests.fixtures import tiny_kokoro
from tests.fixtures.driving import Log, run
from tests.fixtures.tiny_kokoro import FRAME_SAMPLES, SAMPLE_RATE, Library

# The first is just long enough not to be said together with the second; the speed leaves each phoneme a frame.
TWO_SENTENCES = "Is this the first sentence? No."
FIRST, SECOND = "ɪz ðɪs ðə fˈɜɹst sˈɛntᵊns?", "nˈO."
SPEED = 4.0


class Bench:
    """A loaded handler and what each request was told."""

    def __init__(self, folder: Path) -> None:
        self.log = Log()
        spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False})
        self.handler = SpeechHandler(folder, spec, self.log.emit)
        self.info = self.handler.load()

    def submit(self, request_id: int, request: SpeechRequest) -> None:
        prepared = self.handler.prepare(request)
        assert not isinstance(prepared, VoicesListed)
        self.handler.submit(request_id, prepared)

    def audio(self, request_id: int) -> bytes:
        """All of a request that has to have gone well."""
        *deltas, last = self.log.events[request_id]
        assert isinstance(last, Spoken)
        return b"".join(event.audio for event in deltas if isinstance(event, AudioDelta))

    def say(self, request: SpeechRequest) -> bytes:
        """What a request that has the handler for itself is told."""
        self.log.events.clear()
        self.submit(0, request)
        run(self.handler.turn)
        return self.audio(0)


@pytest.fixture(scope="module")
def loaded(kokoro: Path) -> Bench:
    return Bench(kokoro)


@pytest.fixture
def bench(loaded: Bench) -> Bench:
    """The tiny Kokoro, for tests that leave nothing behind in it."""
    assert not loaded.handler.turn()
    loaded.log.events.clear()
    return loaded


@pytest.fixture(scope="module")
def library(kokoro: Path) -> Library:
    return Library(kokoro)


def test_the_samples_are_the_librarys(bench: Bench, library: Library) -> None:
    expected, frames = zip(
        library.say(FIRST, "af_nova", speed=SPEED, seed=5),
        library.say(SECOND, "af_nova", speed=SPEED, seed=6),
        strict=True,
    )
    request = SpeechRequest(TWO_SENTENCES, "nova", "pcm", speed=SPEED, seed=5, has_timings=True)
    assert bench.say(request) == to_int16(np.concatenate(expected)).tobytes()
    first, second, last = bench.log.events[0]
    num_frames = sum(map(sum, frames))
    assert isinstance(last, Spoken)
    assert (last.sample_rate, last.num_samples) == (SAMPLE_RATE, num_frames * FRAME_SAMPLES)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(FIRST + SECOND), num_frames)
    assert isinstance(first, AudioDelta)
    assert first.timings is not None
    assert isinstance(second, AudioDelta)
    assert second.timings is not None
    assert second.timings.words[0].start_s == first.timings.words[-1].end_s == sum(frames[0]) / 40
    assert second.timings.visemes[-1].end_s == num_frames / 40


def test_a_minus_one_seed_is_a_seed(bench: Bench, library: Library) -> None:
    expected, _ = library.say(SECOND, "af_heart", seed=2**64 - 1)
    assert bench.say(SpeechRequest("No.", audio_format="pcm", seed=-1)) == to_int16(expected).tobytes()


def test_requests_take_turns_and_change_nothing_in_each_other(bench: Bench) -> None:
    long = SpeechRequest(TWO_SENTENCES, audio_format="pcm", speed=SPEED)
    short = SpeechRequest("No.", "bf_emma", "pcm", speed=SPEED)
    alone = [bench.say(long), bench.say(short)]
    bench.log.events.clear()
    bench.submit(1, long)
    bench.submit(2, short)
    assert bench.handler.turn()
    assert bench.handler.turn()
    assert (len(bench.log.events[1]), len(bench.log.events[2])) == (1, 2)
    assert not bench.handler.turn()
    assert [bench.audio(1), bench.audio(2)] == alone


def test_a_stream_comes_piece_by_piece(bench: Bench) -> None:
    bench.submit(1, SpeechRequest(TWO_SENTENCES, audio_format="mp3", speed=SPEED, is_streamed=True))
    bench.handler.turn()
    (piece,) = bench.log.events[1]
    assert isinstance(piece, AudioDelta)
    with av.open(io.BytesIO(piece.audio), "r") as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    bench.handler.turn()
    with av.open(io.BytesIO(bench.audio(1)), "r") as container:
        all_heard = sum(frame.samples for frame in container.decode(audio=0))
    assert all_heard > heard > SAMPLE_RATE / 8


def test_a_cancelled_request_is_not_said(bench: Bench) -> None:
    bench.submit(1, SpeechRequest(TWO_SENTENCES, audio_format="pcm", speed=SPEED))
    assert bench.handler.turn()
    bench.handler.cancel(1)
    bench.handler.cancel(7)
    assert not bench.handler.turn()
    assert len(bench.log.events[1]) == 1


def test_the_language_decides_how_it_is_said(bench: Bench) -> None:
    def phonemes(voice: str | None = None, language: str | None = None) -> str:
        prepared = bench.handler.prepare(SpeechRequest("The car.", voice, language=language))
        assert not isinstance(prepared, VoicesListed)
        return prepared.segments[0].phonemes

    assert phonemes() == phonemes(voice="ef_dora", language="en") == "ðə kˈɑɹ."
    assert phonemes(voice="bf_emma") == phonemes(voice="af_heart", language="en_GB") == "ðə kˈɑː."


def test_what_cannot_be_said_is_refused(bench: Bench) -> None:
    for request, param in (
        (SpeechRequest("…?!"), "input"),
        (SpeechRequest("Hola", voice="ef_dora"), "voice"),
        (SpeechRequest("Hi", voice="heart,nova"), "voice"),
        (SpeechRequest("Hi", language="es"), "language"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            bench.handler.prepare(request)
        assert caught.value.param == param


def test_voices_are_those_in_the_folder(bench: Bench) -> None:
    listed = bench.handler.prepare(VoicesRequest())
    assert isinstance(listed, VoicesListed)
    assert tuple(voice.id for voice in listed.voices) == tiny_kokoro.VOICES
    assert [voice.language for voice in listed.voices] == ["en-US", "en-US", "en-US", "en-GB", "es-ES"]
    assert [voice.gender for voice in listed.voices] == ["female", "female", "male", "female", "female"]


def test_a_voice_of_no_numbers_fails_alone(kokoro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kokoro"
    shutil.copytree(kokoro, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    broken = folder / "voices" / "am_broken.safetensors"
    mx.save_safetensors(str(broken), {"voice": mx.full((510, 1, 256), mx.nan)})
    bench = Bench(folder)
    bench.submit(1, SpeechRequest("No.", "am_broken", "pcm"))
    bench.submit(2, SpeechRequest("No.", "am_onyx", "pcm"))
    run(bench.handler.turn)
    (failure,) = bench.log.events[1]
    assert isinstance(failure, Failed)
    assert failure.error == "InternalError"
    assert bench.audio(2)


def test_a_missing_library_is_named(kokoro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "app.handler.speech.handler")
    monkeypatch.setitem(sys.modules, "mlx_audio.tts.utils", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'mlx-openai-server\[speech\]'"):
        open_handler(ModelSpec(model_path=str(kokoro)), tmp_path, Log().emit, print)


def test_the_folder_is_recognised(kokoro: Path, tmp_path: Path) -> None:
    assert kind_of(kokoro, None) == "speech"
    # Older conversions name no model_type.
    config = (kokoro / "config.json").read_text().replace('"model_type": "kokoro", ', "")
    (tmp_path / "config.json").write_text(config)
    assert "model_type" not in config
    assert kind_of(tmp_path, None) == "speech"
    (tmp_path / "model.safetensors").symlink_to(kokoro / "model.safetensors")
    handler = open_handler(ModelSpec(model_path=str(tmp_path)), tmp_path, Log().emit, print)
    with pytest.raises(ModelLoadError, match="voices"):
        handler.load()
