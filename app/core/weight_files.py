"""How large a model's weights are, from the heads of their files: nothing of the weights themselves is read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec

# More than the head of any shard has; a damaged length would ask for terabytes.
_LONGEST_HEAD = 256 * 2**20
_DEFAULT_GROUP_SIZE = 64
# A converted .gguf file has four to five bits for a weight, an .npz file sixteen.
_GGUF_WEIGHTS_PER_BYTE = 2
_NPZ_BYTES_PER_WEIGHT = 2


class NoWeightsError(ValueError):
    """A file that does not begin as one of weights does."""


class Tensor(msgspec.Struct, frozen=True):
    """An entry of a head; that of the metadata has none of these."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, int] = (0, 0)


# MLX writes null where a file has no metadata, as those of adapters do.
_heads = msgspec.json.Decoder(dict[str, Tensor | None])


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on disk, and how many numbers they are once unpacked."""

    num_bytes: int = 0
    num_parameters: int = 0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.num_bytes + other.num_bytes, self.num_parameters + other.num_parameters)


def weights_of(place: Path, group_size: int | None) -> Weights:
    """The weights of a model's folder or .gguf file; `group_size` is that of its config's quantization."""
    if place.suffix.lower() == ".gguf":
        size = place.stat().st_size
        return Weights(size, size * _GGUF_WEIGHTS_PER_BYTE)
    return sum((_of_file(path, group_size or _DEFAULT_GROUP_SIZE) for path in _files(place)), Weights())


def adapter_weights(folder: Path) -> Weights:
    """Those of an adapter's folder, where there may be others from its training; none where it is not there."""
    path = folder / "adapters.safetensors"
    return _of_file(path, _DEFAULT_GROUP_SIZE) if path.is_file() else Weights()


def head_of(path: Path) -> tuple[int, dict[str, Tensor]]:
    """Where the tensors of a safetensors file begin, and what they are by name.

    Source: https://huggingface.co/docs/safetensors/index#format. Errors: NoWeightsError; OSError, ValueError and
    RecursionError for what is damaged.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _LONGEST_HEAD:
            raise NoWeightsError("the head is cut off, or too long")
        entries = _heads.decode(file.read(length))
    return 8 + length, {name: tensor for name, tensor in entries.items() if tensor}


def _files(folder: Path) -> Iterator[Path]:
    """The files that are loaded: an image model has a folder for each of its parts."""
    pattern = "*/*.safetensors" if (folder / "transformer").is_dir() else "*.safetensors"
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    named = [path for path in found if path.name.startswith("model")]
    yield from named or found
    if not found:
        yield from (path for path in folder.glob("*.npz") if path.is_file())


def _of_file(path: Path, group_size: int) -> Weights:
    size = path.stat().st_size
    if path.suffix == ".npz":
        return Weights(size, size // _NPZ_BYTES_PER_WEIGHT)
    try:
        _, tensors = head_of(path)
    except (OSError, ValueError, RecursionError):
        # It will not load either, which its worker says better.
        return Weights(size, size // 2)
    return Weights(size, sum(_num_parameters(tensors, group_size)))


def _num_parameters(tensors: dict[str, Tensor], group_size: int) -> Iterable[int]:
    """Packed weights count by their scales, of which each stands for a group."""
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        is_packed = f"{stem}.scales" in tensors
        if is_packed and kind == "scales":
            yield prod(tensor.shape) * group_size
        elif tensor.dtype and not (is_packed and kind in ("weight", "biases")):
            yield prod(tensor.shape)
