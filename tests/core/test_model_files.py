"""What is known of models before they are loaded."""

import json
import os
from pathlib import Path

import mlx.core as mx
import pytest

from app.core.model_files import expected_bytes, read_model_files
from app.core.weight_files import Weights, weights_of
from app.settings import ModelSpec
from tests.conftest import FolderByName

MIB = 2**20
WORKER_BYTES = 256 * MIB


def write_weights(path: Path, tensors: dict[str, tuple[str, list[int]]], num_bytes: int = 0) -> None:
    """A file with a head of these tensors, and zeros."""
    head: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    head |= {name: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]} for name, (kind, shape) in tensors.items()}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_bytes))


def write_model(folder: Path, num_mib: int = 2, **config: object) -> ModelSpec:
    """A model of 16-bit weights, of so many MiB."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    write_weights(folder / "model.safetensors", {"w": ("BF16", [num_mib, MIB // 2])}, num_mib * MIB)
    return ModelSpec(model_path=str(folder))


def weight_mib(spec: ModelSpec, *, memory_bytes: int = 2**40, is_cpu: bool = False) -> float:
    """What is expected, without the worker itself."""
    files = read_model_files(spec)
    assert files is not None
    return round((expected_bytes(files, spec, memory_bytes=memory_bytes, is_cpu=is_cpu) - WORKER_BYTES) / MIB, 1)


def test_packed_weights_count_by_their_scales(tmp_path: Path) -> None:
    tensors = {
        "layer.weight": ("U32", [16, 8]),
        "layer.scales": ("BF16", [16, 1]),
        "layer.biases": ("BF16", [16, 1]),
        "norm.weight": ("BF16", [10]),
    }
    write_weights(tmp_path / "model.safetensors", tensors)
    assert weights_of(tmp_path, None).num_parameters == 16 * 64 + 10
    assert weights_of(tmp_path, 32).num_parameters == 16 * 32 + 10


def test_what_mlx_has_written_without_metadata_is_read(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"w": mx.zeros((7, 5))})
    assert weights_of(tmp_path, None).num_parameters == 35


def test_shards_and_parts_are_added_up(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        write_weights(tmp_path / name, {"w": ("F32", [5])}, 20)
    assert weights_of(tmp_path, None).num_parameters == 10
    for name in ("transformer", "vae"):
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name / "0.safetensors", {"w": ("F32", [7])})
    assert weights_of(tmp_path, None).num_parameters == 14


@pytest.mark.parametrize("start", [bytes([255]), b"\x08" + bytes(7) + b'{"a": 1}', b"\x08" + bytes(7) + b"\xff"])
@pytest.mark.parametrize(("name", "num_parameters"), [("a.gguf", 200), ("weights.npz", 50), ("w.safetensors", 50)])
def test_files_without_a_readable_head_count_by_their_size(
    tmp_path: Path, name: str, num_parameters: int, start: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(start.ljust(100, b"\xff"))
    place = path if path.suffix == ".gguf" else tmp_path
    assert weights_of(place, None) == Weights(100, num_parameters)


def test_a_cpu_takes_float32_where_that_fits(tmp_path: Path) -> None:
    spec = write_model(tmp_path / "m")
    assert weight_mib(spec) == 2
    assert weight_mib(spec, is_cpu=True) == 4
    assert weight_mib(spec, is_cpu=True, memory_bytes=8 * MIB) == 4
    assert weight_mib(spec, is_cpu=True, memory_bytes=8 * MIB - 2) == 2


def test_there_is_room_for_a_cache(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 512}
    spec = write_model(tmp_path / "m", **shape)
    # 2 x 4 layers x 2 heads x 64 numbers of 2 bytes, 8192 times.
    assert weight_mib(spec) == 2 + 16
    assert weight_mib(spec, is_cpu=True) == 4 + 32
    assert weight_mib(spec.model_copy(update={"kv_bits": 8})) == 2 + 8
    assert weight_mib(spec.model_copy(update={"context_length": 2048})) == 2 + 4
    assert weight_mib(spec.model_copy(update={"max_kv_bytes": 5 * MIB, "prompt_cache_bytes": 7 * MIB})) == 2 + 5 + 7


def test_a_draft_model_counts(tmp_path: Path) -> None:
    spec = write_model(tmp_path / "m")
    draft = write_model(tmp_path / "d", num_mib=3).model_path
    assert weight_mib(spec.model_copy(update={"draft_model_path": draft})) == 5


def test_a_real_model_is_known(model_folder: FolderByName) -> None:
    files = read_model_files(ModelSpec(model_path=str(model_folder("llama"))))
    assert files is not None
    assert (files.kind, files.context_length) == ("lm", 512)
    # Four bytes for a weight, and the head.
    assert 0 < files.weights.num_bytes - 4 * files.weights.num_parameters < 10_000
    assert files.chat_template is not None


def test_the_hub_cache_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "written")
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    (repository / "snapshots").mkdir()
    (tmp_path / "written").rename(repository / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weight_mib(ModelSpec(model_path="org/name")) == 2
    assert read_model_files(ModelSpec(model_path="org/other")) is None


def test_what_is_no_model_is_unknown_and_holds_nobody_up(tmp_path: Path) -> None:
    spec = ModelSpec(model_path=str(tmp_path))
    files = read_model_files(spec)
    assert files is not None
    assert (files.kind, files.weights) == (None, Weights())
    assert read_model_files(ModelSpec(model_path="x" * 5000)) is None
    (tmp_path / "config.json").write_text("[]")
    assert read_model_files(spec) is None
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    assert read_model_files(spec) is not None


def write_adapter_weights(folder: Path, num_mib: int) -> Path:
    """An adapter of 16-bit numbers, and what its training has left beside it."""
    folder.mkdir()
    for name in ("adapters.safetensors", "0000100_adapters.safetensors"):
        write_weights(folder / name, {"w": ("BF16", [num_mib, MIB // 2])}, num_mib * MIB)
    return folder


def test_adapters_count(tmp_path: Path) -> None:
    bare = write_model(tmp_path / "model", 8)
    one, two = (write_adapter_weights(tmp_path / f"{n}", n) for n in (1, 3))
    fixed = bare.model_copy(update={"adapter_path": two})
    assert weight_mib(fixed) == weight_mib(bare) + 3
    # Side by side each takes as much as the largest, and what has none does, too.
    beside = bare.model_copy(update={"adapters": {"one": one, "two": two}})
    assert weight_mib(beside) == weight_mib(bare) + 3 * 3
    assert weight_mib(beside, is_cpu=True) == weight_mib(bare, is_cpu=True) + 2 * 3 * 3
    files, known = read_model_files(beside), read_model_files(bare)
    assert files is not None
    assert known is not None
    assert files.weights == known.weights
    gone = bare.model_copy(update={"adapters": {"one": tmp_path / "gone"}, "adapter_path": tmp_path / "gone"})
    assert weight_mib(gone) == weight_mib(bare)
