import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_whisper.load_models import load_model

from app.core.events import Event, Failed, Segment, Transcribed
from app.core.requests import TranscriptionRequest
from app.errors import InvalidRequest, ModelLoadError
from app.handler.open import open_handler
from app.handler.whisper.handler import WhisperHandler
from app.handler.whisper.transcription import PreparedTranscription
from app.settings import ModelSpec
from tests.fixtures import sound, tiny_whisper
from tests.fixtures.driving import run
from tests.fixtures.sound import RATE, whistle
from tests.fixtures.tiny_whisper import ENGLISH_ONLY, MULTILINGUAL, Shape
from tests.fixtures.whisper_reference import result_of

CALM: dict[str, Any] = {"compression_ratio_threshold": 100.0, "logprob_threshold": -100.0}


class Bench:
    """A loaded handler and what each request was told."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.events: dict[int, list[Event]] = {}
        spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False, **settings})
        self.handler = WhisperHandler(folder, spec, self._emit)
        self.info = self.handler.load()

    def _emit(self, request_id: int, event: Event) -> None:
        self.events.setdefault(request_id, []).append(event)

    def prepare(self, seconds: float = 3, **asked: Any) -> PreparedTranscription:
        return self.handler.prepare(TranscriptionRequest(sound.wav(whistle(seconds)), **{**CALM, **asked}))

    def refusal(self, seconds: float = 3, **asked: Any) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            self.prepare(seconds, **asked)
        return caught.value

    def submit(self, request_id: int, seconds: float = 3, **asked: Any) -> None:
        self.handler.submit(request_id, self.prepare(seconds, language="en", **asked))

    def is_over(self, request_id: int) -> bool:
        return any(isinstance(event, Transcribed | Failed) for event in self.events.get(request_id, []))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper.write(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Bench:
    return Bench(folder, max_audio_seconds=60)


@pytest.fixture
def bench(loaded: Bench) -> Bench:
    """The tiny model, for tests that leave nothing behind in it."""
    assert not loaded.handler._running
    loaded.events.clear()
    return loaded


def test_it_is_found_by_its_folder(folder: Path, tmp_path: Path) -> None:
    handler = open_handler(ModelSpec(model_path=str(folder)), tmp_path, lambda *_: None, print)
    assert isinstance(handler, WhisperHandler)
    # With the warm-up, which runs every part.
    info = handler.load()
    assert (info.kind, info.context_length) == ("whisper", 32)


class TestLoading:
    def test_another_form_of_a_whisper_model_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "whisper", "d_model": 384}')
        with pytest.raises(ModelLoadError, match=r"no n_mels\. .*mlx-community/whisper"):
            Bench(tmp_path)

    def test_missing_weights_are_named(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        with pytest.raises(ModelLoadError, match="cannot be loaded"):
            Bench(tmp_path)

    def test_weights_of_another_size_are_refused(self, folder: Path, tmp_path: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | {"n_mels": 128}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "weights.safetensors").symlink_to(folder / "weights.safetensors")
        with pytest.raises(ModelLoadError, match="cannot be loaded"):
            Bench(tmp_path, warmup=True)

    def test_a_quantized_model_transcribes(self, folder: Path, tmp_path: Path) -> None:
        model = load_model(str(folder), mx.float16)
        nn.quantize(model, group_size=32, bits=8)
        mx.save_safetensors(str(tmp_path / "weights.safetensors"), dict(tree_flatten(model.parameters())))
        config = json.loads((folder / "config.json").read_text()) | {"quantization": {"group_size": 32, "bits": 8}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        bench = Bench(tmp_path)
        bench.submit(1)
        run(bench.handler.turn)
        assert isinstance(bench.events[1][-1], Transcribed)


class TestPreparing:
    @pytest.mark.parametrize(("asked", "code"), [("en", "en"), ("DE", "de"), ("French", "fr"), ("castilian", "es")])
    def test_languages_are_known_by_code_and_name(self, bench: Bench, asked: str, code: str) -> None:
        assert bench.prepare(language=asked).language == code

    @pytest.mark.parametrize("asked", ["xx", "en-US", "klingon", "<|de|>", "x" * 10_000])
    def test_others_are_refused(self, bench: Bench, asked: str) -> None:
        error = bench.refusal(language=asked)
        assert error.param == "language"
        assert "99 languages" in error.message
        assert len(error.message) < 200

    def test_a_later_model_knows_one_more(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.refusal(language="yue").param == "language"
        newer = Bench(tiny_whisper.write(tmp_path / "whisper", Shape(num_tokens=MULTILINGUAL + 1)))
        assert newer.prepare(language="cantonese").language == "yue"

    def test_an_english_model_knows_english(self, tmp_path: Path) -> None:
        english = Bench(tiny_whisper.write(tmp_path / "whisper", Shape(num_tokens=ENGLISH_ONLY)))
        assert english.prepare(language="english").language == "en"
        assert "only English" in english.refusal(language="de").message

    def test_a_marker_in_a_prompt_is_text(self, bench: Bench) -> None:
        marked = bench.prepare(prompt=" <|endoftext|> ").prompt
        assert len(marked) > 3
        assert bench.prepare(prompt="x" * 1_000_000).prompt == bench.prepare(prompt="x" * 8192).prompt
        assert bench.prepare().prompt == []

    @pytest.mark.parametrize(
        ("seconds", "asked", "param", "says"),
        [
            (0.05, {}, "file", "shorter than 0.1 s"),
            (61, {}, "file", "longer than the 60 s"),
            (3, {"clip": (3.0, None)}, "clip_timestamps", "at 3 s"),
        ],
    )
    def test_recordings_have_bounds(self, bench: Bench, seconds: float, asked: Any, param: str, says: str) -> None:
        error = bench.refusal(seconds, **asked)
        assert error.param == param
        assert says in error.message

    def test_the_file_is_not_kept(self, bench: Bench) -> None:
        prepared = bench.prepare()
        assert len(prepared.samples) == 3 * RATE
        assert prepared.asked.audio == b""


class TestTurns:
    def test_requests_take_turns(self, bench: Bench) -> None:
        bench.submit(1, 50)
        bench.submit(2, 3)
        while not bench.is_over(2):
            assert bench.handler.turn()
        assert not bench.is_over(1)
        run(bench.handler.turn)
        assert bench.is_over(1)

    def test_neighbours_change_nothing(self, bench: Bench) -> None:
        for request_id, seconds in ((1, 31), (2, 4), (3, 31)):
            bench.submit(request_id, seconds, has_words=True)
        run(bench.handler.turn)
        first, second, third = (result_of(bench.events[request_id]) for request_id in (1, 2, 3))
        assert first == third != second
        assert any(isinstance(event, Segment) for event in bench.events[2])

    def test_who_is_cancelled_says_nothing_more(self, bench: Bench) -> None:
        bench.submit(1, 50)
        while not any(isinstance(event, Segment) for event in bench.events.get(1, [])):
            bench.handler.turn()
        count = len(bench.events[1])
        bench.handler.cancel(1)
        bench.handler.cancel(99)
        assert not bench.handler.turn()
        assert len(bench.events[1]) == count

    def test_a_step_that_fails_ends_one_request(self, bench: Bench) -> None:
        prepared = bench.prepare(language="en")
        # Nothing of the kind comes from `prepare`.
        bench.handler.submit(1, replace(prepared, language="xx"))
        bench.submit(2)
        run(bench.handler.turn)
        failure = bench.events[1][-1]
        assert isinstance(failure, Failed)
        assert failure.error == "InternalError"
        assert isinstance(bench.events[2][-1], Transcribed)
