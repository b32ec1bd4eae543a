import struct
from pathlib import Path

import numpy as np
import pytest

from app.errors import ModelLoadError
from app.handler.gguf_header import read_header
from tests.fixtures import tiny_llama
from tests.fixtures.gguf_files import Tensor, f16, q8_0, write_gguf

ROWS = np.ones((3, 64), dtype=np.float32)


def test_metadata_and_tensors_are_read_as_written(tmp_path: Path) -> None:
    metadata = {"a": True, "b": 7, "c": 0.5, "d": "é\n", "e": ["x", ""], "f": [1, -2], "g": [0.25, -1.5], "h": [3, 3]}
    path = write_gguf(tmp_path / "a.gguf", metadata, {"w": f16(ROWS), "q": q8_0(ROWS[:2])})

    header = read_header(path)

    assert header.metadata == metadata
    assert (header.flag("a", False), header.integer("b"), header.number("c"), header.text("d")) == (True, 7, 0.5, "é\n")
    assert (header.texts("e"), header.numbers("g"), header.integer("h")) == (["x", ""], [0.25, -1.5], 3)
    assert (header.flag("z", True), header.integer("z", 1), header.number("z", 2.0), header.text("z", "")) == (
        True, 1, 2.0, "",
    )  # fmt: skip
    assert [(tensor.name, tensor.shape, tensor.kind) for tensor in header.tensors.values()] == [
        ("w", (3, 64), "F16"),
        ("q", (2, 64), "Q8_0"),
    ]
    assert header.tensor("q").end_byte == path.stat().st_size - (-2 * 2 * 34 % 32)


def test_a_missing_or_wrong_key_is_named(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf", {"b": "x", "f": [1, 2]}, {}))

    for read in (header.integer, header.number, header.texts):
        with pytest.raises(ModelLoadError, match="its metadata b is not"):
            read("b")
    with pytest.raises(ModelLoadError, match="f is not an integer"):
        header.integer("f")
    with pytest.raises(ModelLoadError, match="z is missing; it should be a string"):
        header.text("z")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    shape = tiny_llama.Shape(width=32, num_heads=2, num_kv_heads=1)
    tensors = tiny_llama.tensors(tiny_llama.build(shape), shape)
    whole = write_gguf(tmp_path / "whole.gguf", tiny_llama.metadata(shape), tensors).read_bytes()
    cut = tmp_path / "cut.gguf"

    for num_bytes in [*range(0, len(whole), 61), len(whole) - 64]:
        cut.write_bytes(whole[:num_bytes])
        with pytest.raises(ModelLoadError):
            read_header(cut)


def test_a_file_with_damaged_counts_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", {"k": [1, 2, 3]}, {"w": f16(ROWS)})
    whole = path.read_bytes()

    for begin in range(8, len(whole) - ROWS.size * 2 - 32, 4):
        path.write_bytes(whole[:begin] + b"\xff" * 8 + whole[begin + 8 :])
        try:
            header = read_header(path)
        except ModelLoadError:
            continue
        # What is not noticed can only have been the bytes of a name or of a value.
        assert len(header.metadata) == 1
        assert header.tensors.keys() == {"w"} or "\ufffd" in "".join(header.tensors)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content, message in (
        (b"", "only 0 bytes"),
        (b"\x80\x04" * 50, "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelLoadError, match=message):
            read_header(path)


@pytest.mark.parametrize(("kind", "name"), [(6, "Q5_0"), (13, "Q5_K"), (999, "999")])
def test_a_tensor_type_that_mlx_cannot_read_is_named(kind: int, name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", {}, {"blk.0.w": Tensor((1, 256), kind, b"\0" * 256, ROWS)})

    with pytest.raises(ModelLoadError, match=rf"blk\.0\.w is of type {name}, .* Q4_1, Q8_0"):
        read_header(path)
