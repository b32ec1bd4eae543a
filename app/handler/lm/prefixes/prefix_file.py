"""A node of the prefix cache as a file: safetensors, with a checksum over everything in it.

The tensors are the tokens from the tree's root to the node's end, then the arrays of the node. Everything else is in
the header's metadata as text, the state of checkpoints as JSON: nothing in a file can run code.
"""

import json
import os
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import mlx.core as mx

from app.handler.lm.kv.caches import Cache
from app.handler.lm.prefixes.kept import Kept

# To be raised with every change of the format, and of what the arrays mean.
FORMAT = "mlx-openai-server prefix cache 2"
_LONGEST_HEADER = 1 << 24
_DTYPES: dict[str, mx.Dtype] = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "U32": mx.uint32,
    "I32": mx.int32,
    "I64": mx.int64,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "F32": mx.float32,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class BrokenFileError(Exception):
    """A file that is none of ours, or not as it was written."""


@dataclass(frozen=True, slots=True)
class FileHead:
    """Which node a file holds: all `tokens` up to its end, of which those from `start` on are its own."""

    namespace: str
    tokens: Sequence[int]
    start: int
    has_checkpoint: bool = False


@dataclass(slots=True)
class Draft:
    """A file's content before it is written. `buffers` look into MLX's arrays: only the main thread lets go of them."""

    header: dict[str, Any]
    buffers: list[memoryview]

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return len(_encoded(self.header | {"__metadata__": self.header["__metadata__"] | {"crc32": "0" * 8}})) + sum(
            map(len, self.buffers)
        )

    def write(self, path: Path) -> None:
        """Write the file, so that at any time it is whole or not there; from any thread. Errors: OSError."""
        self.header["__metadata__"]["crc32"] = f"{_checksum(self.header, self.buffers):08x}"
        temporary = path.with_suffix(".tmp")
        # Prompts can be read off it: nobody else's business.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encoded(self.header))
            for buffer in self.buffers:
                file.write(buffer)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)


def draft(fingerprint: str, head: FileHead, kept: Kept) -> Draft:
    """Main thread; copies nothing. Errors: TypeError for a checkpoint whose state this format has no words for."""
    arrays = [one for span in kept.spans for one in span]
    num_span_arrays = len(arrays)
    states = None if kept.checkpoint is None else [_described(layer.state, arrays) for layer in kept.checkpoint]
    metadata = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "namespace": head.namespace,
        "start": str(head.start),
        "num_spans": str(len(kept.spans)),
        "num_span_arrays": str(num_span_arrays),
        "checkpoint": json.dumps(states),
    }
    views = [mx.contiguous(one).reshape(-1).view(mx.uint8) for one in arrays]
    mx.eval(views)
    tokens = memoryview(array("i", head.tokens)).cast("B")
    header: dict[str, Any] = {"__metadata__": metadata, "tokens": _tensor("I32", [len(head.tokens)], 0, len(tokens))}
    end = len(tokens)
    for number, one in enumerate(arrays):
        if one.dtype not in _DTYPE_NAMES:
            raise TypeError(f"arrays of {one.dtype}")
        header[str(number)] = _tensor(_DTYPE_NAMES[one.dtype], list(one.shape), end, one.nbytes)
        end += one.nbytes
    return Draft(header, [tokens, *map(memoryview, cast("list[Any]", views))])


def read_head(path: Path, fingerprint: str) -> FileHead:
    """Which node a file holds, read off its beginning. Errors: OSError, BrokenFileError."""
    with path.open("rb") as file:
        header, start = _read_header(file)
        size = os.fstat(file.fileno()).st_size
        try:
            metadata = header["__metadata__"]
            if metadata["format"] != FORMAT or metadata["fingerprint"] != fingerprint:
                raise BrokenFileError("it was written for another model or by another version")
            if size != start + max(tensor["data_offsets"][1] for name, tensor in header.items() if name[0] != "_"):
                raise BrokenFileError("a part of it is missing")
            tokens = array("i", file.read(header["tokens"]["data_offsets"][1])).tolist()
            own_from = int(metadata["start"])
            if not 0 <= own_from < len(tokens):
                raise BrokenFileError("it holds no tokens")
            return FileHead(metadata["namespace"], tokens, own_from, metadata["checkpoint"] != "null")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BrokenFileError(f"its header is not understood ({error!r})") from error


def read(path: Path, template: list[type[Any]], buffer: bytearray) -> Kept:
    """What a file holds; main thread. `template` are the classes of the layers that checkpoints are of.

    `buffer` is read into, and made longer if need be: memory that has been used before is faster than new.
    Errors: OSError, BrokenFileError.
    """
    with path.open("rb") as file:
        header, start = _read_header(file)
        size = os.fstat(file.fileno()).st_size - start
        buffer.extend(bytes(max(0, size - len(buffer))))
        data = memoryview(buffer)[:size]
        data = data[: file.readinto(data)]
    try:
        expected = int(header["__metadata__"].pop("crc32"), 16)
        if _checksum(header, [data]) != expected:
            raise BrokenFileError("its checksum is wrong")
        metadata = header["__metadata__"]
        arrays = [_array(header[str(number)], data) for number in range(len(header) - 2)]
        num_spans, num_span_arrays = int(metadata["num_spans"]), int(metadata["num_span_arrays"])
        states = json.loads(metadata["checkpoint"])
        checkpoint: Cache | None = None
        if states is not None:
            pairs = zip(template, states, strict=True)
            checkpoint = [kind.from_state(_state(described, arrays)) for kind, described in pairs]
        width = num_span_arrays // max(1, num_spans)
        spans = [tuple(arrays[start : start + width]) for start in range(0, num_span_arrays, max(1, width))]
        return Kept.of(spans, checkpoint)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"its header is not understood ({error!r})") from error


def _tensor(dtype: str, shape: list[int], start: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}


def _encoded(header: dict[str, Any]) -> bytes:
    """The length and the header, padded so that the data is aligned as the format asks."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checksum(header: dict[str, Any], buffers: list[memoryview]) -> int:
    """Over the header without its checksum and all data."""
    total = zlib.crc32(json.dumps(header).encode())
    for buffer in buffers:
        total = zlib.crc32(buffer, total)
    return total


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and where the data starts."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= _LONGEST_HEADER:
        raise BrokenFileError("it is no safetensors file")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise BrokenFileError("its header is cut off or no JSON") from error
    if not isinstance(header, dict):
        raise BrokenFileError("its header is no object")
    return cast("dict[str, Any]", header), 8 + length


def _array(tensor: dict[str, Any], data: memoryview) -> mx.array:
    start, stop = tensor["data_offsets"]
    values = mx.array(cast("Any", data[start:stop]))
    return values.view(_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])


def _described(state: Any, arrays: list[mx.array]) -> Any:
    """A layer's state as JSON; its arrays are added to `arrays` and named by their places there."""
    match state:
        case mx.array():
            arrays.append(state)
            return {"array": len(arrays) - 1}
        case None | bool() | int() | float() | str():
            return state
        case list() | tuple():
            return [_described(one, arrays) for one in cast("list[Any]", state)]
        case _:
            raise TypeError(f"a state of type {type(state).__name__}")


def _state(described: Any, arrays: list[mx.array]) -> Any:
    match described:
        case {"array": number}:
            return arrays[number]
        case list():
            return [_state(one, arrays) for one in cast("list[Any]", described)]
        case _:
            return described
