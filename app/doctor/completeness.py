"""What is missing of a model's files: downloads that were interrupted leave folders that look like models."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

_LONGEST_HEAD = 256 * 2**20
# What git leaves of a large file that was not fetched.
_POINTER = b"version https://git-lfs"


class _Tensor(msgspec.Struct, frozen=True):
    data_offsets: tuple[int, int] = (0, 0)


# MLX writes null where a file has no metadata, as those of adapters do.
_heads = msgspec.json.Decoder(dict[str, _Tensor | None])


def missing_parts(place: Path) -> Iterator[str]:
    """A sentence for each part of a model's folder or .gguf file that is missing or cut short."""
    if place.is_file():
        return
    files = sorted(place.rglob("*.safetensors"))
    for index in place.rglob("*.safetensors.index.json"):
        for name in _shards(index):
            if not (index.parent / name).is_file():
                yield f"{name} is missing"
    for path in files:
        if fault := _fault(path):
            yield f"{path.relative_to(place)} {fault}"
    if not files and not any(place.glob("*.npz")):
        yield "it has no weights (*.safetensors)"


def _shards(index: Path) -> list[str]:
    try:
        # Whoever opens a pipe waits for what may never come.
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
        return sorted({name for name in named if isinstance(name, str)})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def _fault(path: Path) -> str | None:
    """Source: https://huggingface.co/docs/safetensors/index#format."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return "is not a file"
        with path.open("rb") as file:
            start = file.read(8)
            if start and _POINTER.startswith(start):
                return "is only git's pointer to the file: run git lfs pull"
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > _LONGEST_HEAD:
                return "is not a file of weights, or only its beginning"
            tensors = _heads.decode(file.read(length))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "is damaged: its head cannot be read"
    expected = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values() if tensor), default=0)
    return f"has {about.st_size} of its {expected} bytes" if about.st_size < expected else None
