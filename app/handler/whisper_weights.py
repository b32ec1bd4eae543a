"""Converts a CTranslate2 Whisper model into a folder that mlx_whisper loads."""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Final, TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.errors import ModelLoadError

Array: TypeAlias = NDArray[np.floating | np.signedinteger]

_SPEC_NAME: Final = "WhisperSpec"
_OLDEST_BINARY_VERSION: Final = 4  # The first that writes a type id instead of an item size.
_DTYPES: Final[Mapping[int, DTypeLike]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_FLOATS: Final = (np.dtype(np.float16), np.dtype(np.float32))


def write_whisper_folder(source: Path, folder: Path) -> None:
    """Writes config.json and weights.safetensors from the model.bin `source` and the config.json beside it.

    Weights keep their float16 or float32. Raises `ModelLoadError` for a file that is no Whisper model, is cut short, or
    has integer weights.
    """
    variables = _Variables(source, read_variables(source))
    weights = dict(_weights(variables))
    config = _config(variables, weights)
    if (heads := _alignment_heads(source.with_name("config.json"), config)) is not None:
        weights["alignment_heads"] = heads
    arrays = {name: mx.array(array) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "weights.safetensors"), arrays, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def read_variables(path: Path) -> dict[str, Array]:
    """The named arrays of a CTranslate2 model.bin with the specification "WhisperSpec".

    Source: `ModelSpec._serialize` in https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py
    """
    if not path.is_file():
        raise ModelLoadError(f"{path} does not exist; it should be the CTranslate2 model.")
    if path.stat().st_size == 0:
        raise ModelLoadError(f"{path} is empty; install or download it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(path, data)
        version, spec_name = cursor.integer("I"), cursor.string()
        if spec_name != _SPEC_NAME or version < _OLDEST_BINARY_VERSION:
            raise ModelLoadError(
                f"{path} is not a CTranslate2 Whisper model: it says {spec_name!r}, binary version {version}."
            )
        cursor.integer("I")  # The revision only says which names an old reader would look for.
        num_variables = cursor.integer("I")
        return dict(cursor.variable() for _ in range(num_variables))


class _Cursor:
    """Reads one value after the other; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._position = 0

    def take(self, num_bytes: int) -> bytes:
        end = self._position + num_bytes
        if end > len(self._data):
            raise ModelLoadError(f"{self._path} is cut short; install or download it again.")
        begin, self._position = self._position, end
        return self._data[begin:end]

    def integer(self, code: str) -> int:
        return int.from_bytes(self.take(struct.calcsize(f"<{code}")), "little")

    def string(self) -> str:
        return self.take(self.integer("H")).rstrip(b"\0").decode("utf-8", errors="replace")

    def variable(self) -> tuple[str, Array]:
        name = self.string()
        shape = [self.integer("I") for _ in range(self.integer("B"))]
        kind, num_bytes = self.integer("B"), self.integer("I")
        if kind not in _DTYPES:
            raise ModelLoadError(f"{self._path} cannot be converted: {name} is of the unknown type {kind}.")
        dtype = np.dtype(_DTYPES[kind])
        if num_bytes != prod(shape) * dtype.itemsize:
            raise ModelLoadError(f"{self._path} is damaged: {name} has {num_bytes} bytes for the shape {shape}.")
        return name, np.frombuffer(self.take(num_bytes), dtype).reshape(shape)


class _Variables:
    """The arrays of a file by CTranslate2's names; a missing one is a `ModelLoadError` that names it."""

    def __init__(self, path: Path, arrays: Mapping[str, Array]) -> None:
        self._path = path
        self._arrays = arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            raise ModelLoadError(f"{self._path} cannot be converted: it has no {name}.")
        return self._arrays[name]

    def floats(self, name: str, num_dims: int) -> Array:
        """A weight; a model quantised to integers has scales beside it, which are not applied here."""
        array = self[name]
        if array.dtype not in _FLOATS or array.ndim != num_dims:
            raise ModelLoadError(
                f"{self._path} cannot be converted: {name} is {array.dtype} with {array.ndim} dimensions; take a model"
                " with float16 or float32 weights."
            )
        return array

    def linear(self, name: str) -> tuple[Array, Array]:
        return self.floats(f"{name}/weight", 2), self.floats(f"{name}/bias", 1)

    def num_layers(self, part: str) -> int:
        count = 0
        while f"{part}/layer_{count}/ffn/linear_0/weight" in self:
            count += 1
        return count


def _weights(variables: _Variables) -> Iterator[tuple[str, Array]]:
    for conv in ("conv1", "conv2"):
        # CTranslate2 has (out, in, width) as PyTorch; MLX has (out, width, in).
        yield f"encoder.{conv}.weight", variables.floats(f"encoder/{conv}/weight", 3).transpose(0, 2, 1)
        yield f"encoder.{conv}.bias", variables.floats(f"encoder/{conv}/bias", 1)
    yield from _layer_norm(variables, "encoder/layer_norm", "encoder.ln_post")
    yield from _layer_norm(variables, "decoder/layer_norm", "decoder.ln")
    yield "decoder.token_embedding.weight", variables.floats("decoder/embeddings/weight", 2)
    yield "decoder.positional_embedding", variables.floats("decoder/position_encodings/encodings", 2)
    for part in ("encoder", "decoder"):
        for i in range(variables.num_layers(part)):
            yield from _block(variables, f"{part}/layer_{i}", f"{part}.blocks.{i}", has_cross=part == "decoder")


def _block(variables: _Variables, source: str, target: str, *, has_cross: bool) -> Iterator[tuple[str, Array]]:
    yield from _layer_norm(variables, f"{source}/self_attention/layer_norm", f"{target}.attn_ln")
    yield from _split_linear(
        variables, f"{source}/self_attention/linear_0", f"{target}.attn", ("query", "key", "value")
    )
    yield from _linear(variables, f"{source}/self_attention/linear_1", f"{target}.attn.out")
    if has_cross:
        cross = f"{target}.cross_attn"
        yield from _layer_norm(variables, f"{source}/attention/layer_norm", f"{target}.cross_attn_ln")
        yield from _linear(variables, f"{source}/attention/linear_0", f"{cross}.query")
        yield from _split_linear(variables, f"{source}/attention/linear_1", cross, ("key", "value"))
        yield from _linear(variables, f"{source}/attention/linear_2", f"{cross}.out")
    yield from _layer_norm(variables, f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
    yield from _linear(variables, f"{source}/ffn/linear_0", f"{target}.mlp1")
    yield from _linear(variables, f"{source}/ffn/linear_1", f"{target}.mlp2")


def _layer_norm(variables: _Variables, source: str, target: str) -> Iterator[tuple[str, Array]]:
    yield f"{target}.weight", variables.floats(f"{source}/gamma", 1)
    yield f"{target}.bias", variables.floats(f"{source}/beta", 1)


def _linear(variables: _Variables, source: str, target: str) -> Iterator[tuple[str, Array]]:
    weight, bias = variables.linear(source)
    yield f"{target}.weight", weight
    yield f"{target}.bias", bias


def _split_linear(
    variables: _Variables, source: str, target: str, names: tuple[str, ...]
) -> Iterator[tuple[str, Array]]:
    """The projections that CTranslate2 stacks in one; Whisper's key has no bias, the stack has zeros there."""
    weight, bias = variables.linear(source)
    num_rows = weight.shape[0] // len(names)
    for i, name in enumerate(names):
        rows = slice(i * num_rows, (i + 1) * num_rows)
        yield f"{target}.{name}.weight", weight[rows]
        if name != "key":
            yield f"{target}.{name}.bias", bias[rows]


def _config(variables: _Variables, weights: Mapping[str, Array]) -> dict[str, int | str]:
    """`ModelDimensions` of mlx_whisper. The encoder's positions are computed there; here they give its context."""
    num_audio_positions, width = variables.floats("encoder/position_encodings/encodings", 2).shape
    num_tokens, text_width = weights["decoder.token_embedding.weight"].shape
    return {
        "model_type": "whisper",
        "n_mels": variables.floats("encoder/conv1/weight", 3).shape[1],
        "n_audio_ctx": num_audio_positions,
        "n_audio_state": width,
        "n_audio_head": int(variables["encoder/num_heads"].item()),
        "n_audio_layer": variables.num_layers("encoder"),
        "n_vocab": num_tokens,
        "n_text_ctx": weights["decoder.positional_embedding"].shape[0],
        "n_text_state": text_width,
        "n_text_head": int(variables["decoder/num_heads"].item()),
        "n_text_layer": variables.num_layers("decoder"),
    }


def _alignment_heads(path: Path, config: Mapping[str, int | str]) -> Array | None:
    """The (layer, head) pairs whose attention gives word times, or None where the file does not say."""
    if not path.is_file():
        return None
    try:
        heads = np.array(json.loads(path.read_text(encoding="utf-8")).get("alignment_heads") or [], dtype=np.int32)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path} is damaged: {error}.") from error
    if not heads.size:
        return None
    limits = (config["n_text_layer"], config["n_text_head"])
    if heads.ndim != 2 or heads.shape[1] != 2 or heads.min() < 0 or not (heads < np.array(limits)).all():
        raise ModelLoadError(f"{path} is damaged: its alignment_heads are not pairs of a layer and a head.")
    return heads
