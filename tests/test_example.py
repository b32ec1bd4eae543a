"""The command that is told when the server starts."""

import json
import os
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.example import example_command
from app.schemas.chat import ChatCompletionRequest
from app.schemas.embeddings import EmbeddingsRequest
from app.schemas.images import ImageGenerationRequest
from app.schemas.speech import SpeechBody
from app.settings import ModelSpec

URL = "http://127.0.0.1:8000"
KEY = ' -H "Authorization: Bearer $API_KEY"'
CHAT = ("/v1/chat/completions", ChatCompletionRequest)
EMBEDDINGS = ("/v1/embeddings", EmbeddingsRequest)
SPEECH = ("/v1/audio/speech", SpeechBody)
IMAGES = ("/v1/images/generations", ImageGenerationRequest)


def words(key: str = "", **settings: object) -> list[str]:
    """Of the command, as a shell reads it."""
    spec = ModelSpec.model_validate(settings)
    return shlex.split(" ".join(line.removesuffix("\\") for line in example_command(spec, URL, key)))


def folder_with(folder: Path, config: dict[str, object] | None, *parts: str) -> Path:
    folder.mkdir()
    for part in parts:
        (folder / part).mkdir()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "parts", "expected"),
    [
        ({"model_type": "qwen3"}, (), CHAT),
        ({"model_type": "qwen3_vl", "vision_config": {}}, (), CHAT),
        ({"model_type": "bert"}, (), EMBEDDINGS),
        ({"model_type": "kokoro"}, (), SPEECH),
        (None, ("transformer", "vae"), IMAGES),
    ],
)
def test_a_model_on_this_machine_is_asked_for_what_it_makes(
    tmp_path: Path, config: dict[str, object] | None, parts: tuple[str, ...], expected: tuple[str, type[BaseModel]]
) -> None:
    folder = folder_with(tmp_path / "mine", config, *parts)
    told = words(KEY, model_path=str(folder), served_model_name='it\'s "mine"')
    assert told[:2] == ["curl", URL + expected[0]]
    assert told[2:4] == ["-H", "Authorization: Bearer $API_KEY"]
    body = told[told.index("-d") + 1]
    assert json.loads(body)["model"] == 'it\'s "mine"'
    # It is what the endpoint takes.
    expected[1].model_validate_json(body)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"model_path": "mlx-community/Qwen3-4B-4bit"}, "/v1/chat/completions"),
        ({"model_path": "mlx-community/whisper-large-v3-turbo"}, "/v1/audio/transcriptions"),
        ({"model_path": "prince-canuma/Kokoro-82M"}, "/v1/audio/speech"),
        ({"model_path": "mlx-community/nomic-embed-text-v1.5"}, "/v1/embeddings"),
        ({"model_path": "black-forest-labs/FLUX.1-schnell"}, "/v1/images/generations"),
        ({"model_path": "Qwen/Qwen-Image-Edit-2509"}, "/v1/images/edits"),
        ({"model_path": "flux2-klein-4b-edit", "config_name": "flux2-klein-4b-edit"}, "/v1/images/generations"),
        ({"model_path": "a/b", "model_type": "image-edit"}, "/v1/images/edits"),
        ({"model_path": "a/b", "config_name": "flux-kontext-dev"}, "/v1/images/edits"),
        ({"model_path": "a/whisper-chat", "model_type": "lm"}, "/v1/chat/completions"),
        ({"model_path": "a/b", "model_type": "tts"}, "/v1/audio/speech"),
    ],
)
def test_one_that_is_not_there_yet_is_known_by_its_settings_and_its_name(settings: dict[str, str], path: str) -> None:
    assert words(**settings)[1] == URL + path


def test_files_are_sent_in_a_form(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "ears", {"model_type": "whisper"})
    fields = ["-F", f"model={folder}", "-F", "file=@speech.wav"]
    assert words(model_path=str(folder)) == ["curl", f"{URL}/v1/audio/transcriptions", *fields]
    assert "image=@picture.png" in words(model_path="a/qwen-image-edit", config_name="qwen-image-edit")


def test_nobody_waits_for_a_file_that_never_ends(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    assert words(model_path=str(tmp_path / "pipe"))[1] == f"{URL}/v1/chat/completions"
