"""What is missing of a model."""

import json
import os
from pathlib import Path

import mlx.core as mx
import pytest

from app.doctor.completeness import missing_parts


def write_weights(path: Path, num_bytes: int = 16) -> Path:
    head = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(num_bytes))
    return path


def test_of_a_whole_one_is_nothing(llama_folder: Path, tmp_path: Path) -> None:
    assert list(missing_parts(llama_folder)) == []
    write_weights(tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-1.safetensors"}}')
    assert list(missing_parts(tmp_path)) == []
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    assert list(missing_parts(tmp_path / "file.gguf")) == []


def test_of_weights_that_mlx_has_written_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    mx.save_safetensors(str(path), {"w": mx.zeros((4,))})
    assert list(missing_parts(tmp_path)) == []
    os.truncate(path, path.stat().st_size - 1)
    assert [part.partition(" of its ")[0] for part in missing_parts(tmp_path)] == [
        f"adapters.safetensors has {path.stat().st_size}"
    ]


def test_a_shard_that_the_index_names(tmp_path: Path) -> None:
    write_weights(tmp_path / "model-1.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert list(missing_parts(tmp_path)) == ["model-2.safetensors is missing"]


def test_all_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert list(missing_parts(tmp_path)) == ["it has no weights (*.safetensors)"]
    (tmp_path / "weights.npz").write_bytes(b"x")
    assert list(missing_parts(tmp_path)) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a file of weights, or only its beginning"),
        (b"\x01\x02", "is not a file of weights, or only its beginning"),
        (b"\xff" * 100, "is not a file of weights, or only its beginning"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run git lfs pull"),
        ((20).to_bytes(8, "little") + b'{"w":', "its head cannot be read"),
    ],
)
def test_of_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (sentence,) = missing_parts(tmp_path)
    assert sentence.startswith("model.safetensors ")
    assert said in sentence


def test_the_end_of_a_file(tmp_path: Path) -> None:
    size = write_weights(tmp_path / "model.safetensors").stat().st_size
    write_weights(tmp_path / "model.safetensors", num_bytes=15)
    assert list(missing_parts(tmp_path)) == [f"model.safetensors has {size - 1} of its {size} bytes"]


def test_a_link_whose_target_is_gone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    (sentence,) = missing_parts(tmp_path)
    assert sentence == "model.safetensors cannot be read: No such file or directory"


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    assert list(missing_parts(tmp_path)) == ["model.safetensors is not a file"]


def test_an_index_that_names_no_files(tmp_path: Path) -> None:
    write_weights(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": 1, "v": ["a"], "u": "b"}}')
    assert list(missing_parts(tmp_path)) == ["b is missing"]
