"""What is relied on in mlx_whisper beside the results, which tests/handler/whisper compares."""

import inspect
from pathlib import Path

import mlx.core as mx
import mlx_whisper
import numpy as np
import pytest
from mlx_whisper.decoding import DecodingOptions, DecodingResult
from mlx_whisper.whisper import Whisper

from app.core.requests import TranscriptionRequest
from app.handler.whisper import transcription
from app.handler.whisper.transcription import load
from tests.fixtures import tiny_whisper


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    return load(tiny_whisper.write(tmp_path_factory.mktemp("models") / "whisper"), mx.float32)


def test_the_defaults_are_ours() -> None:
    theirs = {name: one.default for name, one in inspect.signature(mlx_whisper.transcribe).parameters.items()}
    ours = TranscriptionRequest(b"")
    assert theirs["temperature"] == transcription._TEMPERATURES
    names = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold", "condition_on_previous_text")
    for name in names:
        assert theirs[name] == getattr(ours, name)
    assert theirs["hallucination_silence_threshold"] is None


def test_what_is_encoded_already_is_decoded_the_same(model: Whisper) -> None:
    mel = mx.array(np.random.default_rng(0).standard_normal((3000, 80)).astype(np.float32))
    options = DecodingOptions(language="en", fp16=False)
    plain, encoded = (model.decode(given, options) for given in (mel, model.encoder(mel[None])[0]))
    assert isinstance(plain, DecodingResult)
    assert isinstance(encoded, DecodingResult)
    assert plain.tokens == encoded.tokens != []
    assert repr(plain.avg_logprob) == repr(encoded.avg_logprob)


def test_a_folder_of_another_form_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper", "d_model": 384}')
    with pytest.raises(TypeError):
        load(tmp_path, mx.float32)
