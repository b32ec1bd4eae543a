"""Reads what a `.gguf` file says about itself, without touching its weights."""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final, TypeAlias

from app.errors import ModelLoadError

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[Scalar]

_SCALAR_CODES: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9

# ggml type id -> name, weights in a block, bytes in a block; only the types that `mx.load` can read.
_READABLE: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
_UNREADABLE: Final[Mapping[int, str]] = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor table; `shape` is (rows, columns) as in MLX, the reverse of the file's order."""

    name: str
    shape: tuple[int, ...]
    kind: str
    end_byte: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata and the tensor table of one file; a getter without a default raises when the key is missing."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]

    def tensor(self, name: str) -> GgufTensor:
        if name not in self.tensors:
            raise ModelLoadError(f"{self.path} cannot be converted: it has no tensor {name}.")
        return self.tensors[name]

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; a list counts when all its entries are equal, as files with one value per layer write it."""
        value = self.metadata.get(key, default)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if isinstance(value, int):
            return int(value)
        raise self._wrong(key, "an integer")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if isinstance(value, (int, float)):
            return float(value)
        raise self._wrong(key, "a number")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.metadata.get(key, default)
        if isinstance(value, str):
            return value
        raise self._wrong(key, "a string")

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(key, default)
        if isinstance(value, (bool, int)):
            return bool(value)
        raise self._wrong(key, "true or false")

    def texts(self, key: str) -> list[str]:
        return [entry for entry in self._list(key) if isinstance(entry, str)]

    def numbers(self, key: str) -> list[float]:
        return [float(entry) for entry in self._list(key) if not isinstance(entry, str)]

    def _list(self, key: str) -> list[Scalar]:
        value = self.metadata.get(key)
        if isinstance(value, list):
            return value
        raise self._wrong(key, "a list")

    def _wrong(self, key: str, wanted: str) -> ModelLoadError:
        state = "is not" if key in self.metadata else "is missing; it should be"
        return ModelLoadError(f"{self.path} cannot be converted: its metadata {key} {state} {wanted}.")


def read_header(path: Path) -> GgufHeader:
    """Reads the metadata and the tensor table of a GGUF version 2 or 3 file.

    Raises `ModelLoadError` when the file is no GGUF, is cut short, or holds tensors of a type MLX cannot read. MLX
    itself maps the file without checking its length, so a download that broke off would end the process.
    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    num_bytes = path.stat().st_size
    if num_bytes < 24:
        raise ModelLoadError(f"{path} is not a GGUF file: it has only {num_bytes} bytes.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ModelLoadError(f"{path} is not a GGUF file.")
        cursor = _Cursor(path, data)
        cursor.skip(4)
        version = cursor.integer("I")
        if version not in (2, 3):
            raise ModelLoadError(f"{path} is GGUF version {version}; only versions 2 and 3 can be read.")
        num_tensors, num_keys = cursor.integer("Q"), cursor.integer("Q")
        metadata = {cursor.string(): cursor.value(cursor.integer("I")) for _ in range(num_keys)}
        header = GgufHeader(path, metadata, {})
        tensors = _tensor_table(cursor, num_tensors, header.integer("general.alignment", 32))
    for tensor in tensors:
        if tensor.end_byte > num_bytes:
            raise _cut_short(path)
    return GgufHeader(path, metadata, {tensor.name: tensor for tensor in tensors})


def _tensor_table(cursor: "_Cursor", num_tensors: int, alignment: int) -> list[GgufTensor]:
    if alignment <= 0:
        raise ModelLoadError(f"{cursor.path} is damaged: its alignment is {alignment}.")
    entries: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(num_tensors):
        name, num_dims = cursor.string(), cursor.integer("I")
        dims = cursor.numbers("Q", num_dims)
        entries.append((name, tuple(int(dim) for dim in reversed(dims)), cursor.integer("I"), cursor.integer("Q")))
    data_begin = -(-cursor.position // alignment) * alignment
    return [_tensor(cursor.path, name, shape, kind, data_begin + offset) for name, shape, kind, offset in entries]


def _tensor(path: Path, name: str, shape: tuple[int, ...], kind: int, begin_byte: int) -> GgufTensor:
    if kind not in _READABLE:
        raise ModelLoadError(
            f"{path} cannot be converted: its tensor {name} is of type {_UNREADABLE.get(kind, kind)}, which MLX cannot"
            f" read; take a file of type {', '.join(kind_name for kind_name, _, _ in _READABLE.values())}."
        )
    kind_name, block, block_bytes = _READABLE[kind]
    if not shape or shape[-1] % block:
        raise ModelLoadError(f"{path} is damaged: its tensor {name} has the impossible shape {shape}.")
    return GgufTensor(name, shape, kind_name, begin_byte + prod(shape) // block * block_bytes)


def _cut_short(path: Path) -> ModelLoadError:
    return ModelLoadError(f"{path} is cut short: it ends before its last tensor; download it again.")


class _Cursor:
    """Reads little-endian values one after the other; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.position = 0
        self._data = data

    def skip(self, num_bytes: int) -> int:
        """Moves forward and returns where it stood."""
        begin = self.position
        if num_bytes > len(self._data) - begin:
            raise _cut_short(self.path)
        self.position = begin + num_bytes
        return begin

    def integer(self, code: str) -> int:
        return int(self.numbers(code, 1)[0])

    def numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        # Checked before the format is built: a damaged count would make `struct` ask for terabytes.
        begin = self.skip(struct.calcsize(f"<{code}") * count)
        return struct.unpack_from(f"<{count}{code}", self._data, begin)

    def string(self) -> str:
        num_bytes = self.integer("Q")
        begin = self.skip(num_bytes)
        return self._data[begin : begin + num_bytes].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value:
        if kind != _ARRAY:
            return self._scalars(kind, 1)[0]
        return self._scalars(self.integer("I"), self.integer("Q"))

    def _scalars(self, kind: int, count: int) -> list[Scalar]:
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind in _SCALAR_CODES:
            return list(self.numbers(_SCALAR_CODES[kind], count))
        raise ModelLoadError(f"{self.path} is damaged: it has metadata of the unknown type {kind}.")
