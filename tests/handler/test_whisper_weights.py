import json
import struct
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from app.errors import ModelLoadError
from app.handler.whisper_weights import read_variables, write_whisper_folder

Variables = dict[str, NDArray[np.floating | np.signedinteger]]

WIDTH, NUM_MELS, NUM_TOKENS = 4, 6, 9
_KINDS = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}


def stored(variables: Variables, *, spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """A model.bin as `ModelSpec._serialize` of CTranslate2 writes it."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", version) + string(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", _KINDS[array.dtype.name], array.nbytes) + array.tobytes()
    return data + struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "encoder/conv1/weight", (WIDTH, NUM_MELS, 3)
    yield "encoder/conv2/weight", (WIDTH, WIDTH, 3)
    yield from ((f"encoder/conv{i}/bias", (WIDTH,)) for i in (1, 2))
    yield "encoder/position_encodings/encodings", (10, WIDTH)
    yield "decoder/position_encodings/encodings", (7, WIDTH)
    yield "decoder/embeddings/weight", (NUM_TOKENS, WIDTH)
    for part, num_layers in (("encoder", 2), ("decoder", 1)):
        norms = [f"{part}/layer_norm"]
        for layer in (f"{part}/layer_{i}" for i in range(num_layers)):
            linears = {"self_attention/linear_0": (3, 1), "self_attention/linear_1": (1, 1)}
            linears |= {"ffn/linear_0": (4, 1), "ffn/linear_1": (1, 4)}
            if part == "decoder":
                linears |= {f"attention/linear_{i}": (2 if i == 1 else 1, 1) for i in range(3)}
                norms.append(f"{layer}/attention/layer_norm")
            norms += [f"{layer}/self_attention/layer_norm", f"{layer}/ffn/layer_norm"]
            for name, (rows, columns) in linears.items():
                yield f"{layer}/{name}/weight", (rows * WIDTH, columns * WIDTH)
                yield f"{layer}/{name}/bias", (rows * WIDTH,)
        yield from ((f"{norm}/{part_name}", (WIDTH,)) for norm in norms for part_name in ("gamma", "beta"))


@pytest.fixture
def variables() -> Variables:
    draw = np.random.default_rng(1)
    arrays: Variables = {name: draw.normal(size=shape).astype(np.float16) for name, shape in shapes()}
    return arrays | {f"{part}/num_heads": np.array(2, dtype=np.int16) for part in ("encoder", "decoder")}


def convert(tmp_path: Path, data: bytes, config: object = None) -> tuple[dict[str, object], dict[str, mx.array]]:
    (tmp_path / "model.bin").write_bytes(data)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    write_whisper_folder(tmp_path / "model.bin", folder)
    weights = mx.load(str(folder / "weights.safetensors"))
    assert isinstance(weights, dict)
    return json.loads((folder / "config.json").read_text()), weights


def test_every_weight_goes_to_its_place(variables: Variables, tmp_path: Path) -> None:
    config, weights = convert(tmp_path, stored(variables), {"alignment_heads": [[0, 1]]})

    assert [config[f"n_audio_{name}"] for name in ("ctx", "state", "head", "layer")] == [10, WIDTH, 2, 2]
    assert [config[f"n_text_{name}"] for name in ("ctx", "state", "head", "layer")] == [7, WIDTH, 2, 1]
    assert (config["n_mels"], config["n_vocab"]) == (NUM_MELS, NUM_TOKENS)

    stack = variables["encoder/layer_1/self_attention/linear_0/weight"]
    cross = variables["decoder/layer_0/attention/linear_1/weight"]
    cross_bias = variables["decoder/layer_0/attention/linear_1/bias"]
    expected = {
        "encoder.conv1.weight": variables["encoder/conv1/weight"].transpose(0, 2, 1),
        "encoder.blocks.1.attn.query.weight": stack[:WIDTH],
        "encoder.blocks.1.attn.key.weight": stack[WIDTH : 2 * WIDTH],
        "encoder.blocks.1.attn.value.weight": stack[2 * WIDTH :],
        "decoder.blocks.0.cross_attn.key.weight": cross[:WIDTH],
        "decoder.blocks.0.cross_attn.value.weight": cross[WIDTH:],
        "decoder.blocks.0.cross_attn.value.bias": cross_bias[WIDTH:],
        "decoder.blocks.0.cross_attn.out.bias": variables["decoder/layer_0/attention/linear_2/bias"],
        "decoder.blocks.0.mlp2.weight": variables["decoder/layer_0/ffn/linear_1/weight"],
        "decoder.ln.weight": variables["decoder/layer_norm/gamma"],
        "encoder.ln_post.bias": variables["encoder/layer_norm/beta"],
        "decoder.positional_embedding": variables["decoder/position_encodings/encodings"],
        "alignment_heads": np.array([[0, 1]], dtype=np.int32),
    }
    for name, array in expected.items():
        assert_array_equal(np.array(weights[name]), array, err_msg=name)
    # Outside the blocks, three blocks, the cross-attention of one of them, the alignment heads.
    assert len(weights) == 10 + 3 * 15 + 9 + 1
    assert not any(name.endswith("key.bias") for name in weights)


def test_without_alignment_heads_none_are_written(variables: Variables, tmp_path: Path) -> None:
    assert "alignment_heads" not in convert(tmp_path, stored(variables))[1]
    assert "alignment_heads" not in convert(tmp_path, stored(variables), {"alignment_heads": None})[1]


@pytest.mark.parametrize("heads", [[[1, 0]], [[0, 2]], [[0, -1]], [0, 1], [["a", "b"]], [[0, 1], [0]]])
def test_impossible_alignment_heads_are_refused(heads: object, variables: Variables, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json is damaged"):
        convert(tmp_path, stored(variables), {"alignment_heads": heads})


def test_a_file_cut_anywhere_is_refused(variables: Variables, tmp_path: Path) -> None:
    whole = stored(variables)
    path = tmp_path / "model.bin"

    for num_bytes in range(0, len(whole) - 70, 37):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(ModelLoadError):
            read_variables(path)


def test_other_files_are_refused(variables: Variables, tmp_path: Path) -> None:
    for data, message in (
        (stored(variables, spec="TransformerSpec"), "says 'TransformerSpec'"),
        (stored(variables, version=3), "binary version 3"),
        (b"\x80\x04" * 200, "not a CTranslate2 Whisper model|cut short"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            convert(tmp_path, data)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ModelLoadError, match="does not exist"):
        read_variables(tmp_path / "model.bin")


def test_integer_weights_and_missing_ones_are_named(variables: Variables, tmp_path: Path) -> None:
    name = "decoder/layer_0/ffn/linear_1/weight"
    quantised = variables | {name: variables[name].astype(np.int8)}
    with pytest.raises(ModelLoadError, match=f"{name} is int8"):
        convert(tmp_path, stored(quantised))

    del variables["encoder/layer_norm/beta"]
    with pytest.raises(ModelLoadError, match="it has no encoder/layer_norm/beta"):
        convert(tmp_path, stored(variables))


def test_a_size_that_does_not_fit_the_shape_is_refused(variables: Variables, tmp_path: Path) -> None:
    name = b"encoder/conv1/bias\0"
    whole = stored(variables)
    dimension = whole.index(name) + len(name) + 1

    with pytest.raises(ModelLoadError, match="encoder/conv1/bias has 8 bytes for the shape"):
        convert(tmp_path, whole[:dimension] + struct.pack("<I", 5) + whole[dimension + 4 :])
