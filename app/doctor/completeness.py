"""What is missing of a model's files: downloads that were interrupted leave folders that look like models."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

from app.core.weight_files import NoWeightsError, head_of

# What git leaves of a large file that was not fetched.
_POINTER = b"version https://git-lfs"


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
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return "is not a file"
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            return "is only git's pointer to the file: run git lfs pull"
        begin, tensors = head_of(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except NoWeightsError:
        return "is not a file of weights, or only its beginning"
    except (ValueError, RecursionError):
        return "is damaged: its head cannot be read"
    expected = begin + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    return f"has {about.st_size} of its {expected} bytes" if about.st_size < expected else None
