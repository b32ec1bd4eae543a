import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm import generate
from mlx_lm.models import llama
from mlx_lm.models.rope_utils import Llama3RoPE, SuScaledRoPE
from mlx_lm.utils import load_model, load_tokenizer
from numpy.testing import assert_allclose

from app.errors import ModelLoadError
from app.handler.gguf import write_mlx_folder
from app.handler.samples import sample_folder
from tests.fixtures import tiny_llama
from tests.fixtures.gguf_files import Floats, Tensor, f32, q4_0, q4_1, q8_0, write_gguf
from tests.fixtures.tiny_llama import Shape

PROMPT = mx.array([[104, 7, 200, 33, 33, 91, 4, 250, 18, 66, 104, 7]])


def convert(tmp_path: Path, metadata: dict[str, tiny_llama.Value], tensors: dict[str, Tensor]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_mlx_folder(write_gguf(tmp_path / "tiny.gguf", metadata, tensors), folder)
    return folder


def logits(model: nn.Module) -> Floats:
    """(positions, vocabulary) in float32."""
    model.set_dtype(mx.float32)
    return np.array(model(PROMPT)[0])


def loaded(folder: Path) -> llama.Model:
    model, _ = load_model(folder)
    assert isinstance(model, llama.Model)
    return model


def converted_logits(folder: Path) -> Floats:
    return logits(loaded(folder))


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


SHAPES = {
    "grouped, tied": Shape(),
    "untied": Shape(is_tied=False),
    "head_count_kv missing": Shape(num_kv_heads=None),
    "one kv head": Shape(num_kv_heads=1),
    "explicit head_dim": Shape(head_dim=32),
    "attention bias": Shape(has_attention_bias=True),
    "mlp bias": Shape(has_mlp_bias=True),
    "linear scaling": Shape(linear_factor=4.0),
    "rope base": Shape(rope_theta=500000.0),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_converted_model_computes_what_the_original_did(shape: Shape, tmp_path: Path) -> None:
    original = tiny_llama.build(shape)

    folder = convert(tmp_path, tiny_llama.metadata(shape), tiny_llama.tensors(original, shape))

    expected = logits(original)
    assert_allclose(converted_logits(folder), expected, atol=1e-4, rtol=0)
    assert np.abs(expected).max() > 1
    config = config_of(folder)
    assert config["tie_word_embeddings"] is shape.is_tied
    assert config["vocab_size"] == len(tiny_llama.TOKENS) + 9
    assert "quantization" not in config
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    assert {array.dtype for array in weights.values()} == {mx.float16}


def test_the_older_key_of_linear_scaling_counts_too(tmp_path: Path) -> None:
    shape = Shape()
    metadata = tiny_llama.metadata(shape) | {"llama.rope.scale_linear": 2.0}

    folder = convert(tmp_path, metadata, tiny_llama.tensors(tiny_llama.build(shape), shape))

    assert config_of(folder)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


class FactorRope(nn.Module):
    """Rotates with the frequencies divided by `factors`, as llama.cpp does with rope_freqs.weight."""

    def __init__(self, base: float, factors: Floats) -> None:
        super().__init__()
        self._periods = mx.array(base ** (np.arange(len(factors)) / len(factors)) * factors, dtype=mx.float32)

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        dims = 2 * self._periods.size
        return mx.fast.rope(x, dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._periods)


def llama3_factors(head_dim: int, base: float, factor: float) -> Floats:
    """`generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py."""
    factors: list[float] = []
    for freq in 1.0 / base ** (np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / freq
        if wavelength < 8192 / 4:
            factors.append(1)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("kind", ["llama3", "longrope"])
def test_rope_factors_scale_each_frequency(kind: str, tmp_path: Path) -> None:
    shape = Shape(head_dim=64, rope_theta=500000.0)
    llama3 = llama3_factors(64, 500000.0, 32.0)
    factors = llama3 if kind == "llama3" else np.linspace(1.5, 9, 32, dtype=np.float32)
    original = tiny_llama.build(shape)
    tensors = tiny_llama.tensors(original, shape) | {"rope_freqs.weight": f32(factors)}
    for layer in original.layers:
        layer.self_attn["rope"] = FactorRope(500000.0, factors)

    folder = convert(tmp_path, tiny_llama.metadata(shape), tensors)

    assert_allclose(converted_logits(folder), logits(original), atol=1e-4, rtol=0)
    scaling = config_of(folder)["rope_scaling"]
    assert isinstance(scaling, dict)
    assert scaling["rope_type"] == kind
    rope = loaded(folder).layers[0].self_attn.rope
    assert isinstance(rope, Llama3RoPE | SuScaledRoPE)
    assert_allclose(np.array(rope._freqs), 500000.0 ** (np.arange(32) / 32) * factors, rtol=1e-4)
    assert scaling == LLAMA3 or kind == "longrope"


def test_quantised_tensors_stay_quantised_with_the_bits_of_each(tmp_path: Path) -> None:
    shape = Shape(has_attention_bias=True)
    original = tiny_llama.build(shape)
    encoders = {"attn_q": q8_0, "attn_k": q4_1, "attn_v": q4_0, "ffn_gate": q4_0, "ffn_up": q4_1, "token_embd": q8_0}
    tensors = tiny_llama.tensors(original, shape, encoders)
    # The original with the very values that the blocks stand for, in MLX's order again.
    for i, layer in enumerate(original.layers):
        for name, module in {"attn_v": layer.self_attn.v_proj, "ffn_gate": layer.mlp.gate_proj}.items():
            module.weight = mx.array(tensors[f"blk.{i}.{name}.weight"].values)
        layer.mlp.up_proj.weight = mx.array(tensors[f"blk.{i}.ffn_up.weight"].values)
        layer.self_attn.q_proj.weight = mx.array(in_halves(tensors[f"blk.{i}.attn_q.weight"].values, 4))
        layer.self_attn.k_proj.weight = mx.array(in_halves(tensors[f"blk.{i}.attn_k.weight"].values, 2))
    original.model.embed_tokens.weight = mx.array(tensors["token_embd.weight"].values)

    folder = convert(tmp_path, tiny_llama.metadata(shape), tensors)

    model = loaded(folder)
    assert config_of(folder)["quantization"] == {"group_size": 32, "bits": 4} | {
        name: {"group_size": 32, "bits": 8}
        for name in ("model.embed_tokens", *(f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)))
    }
    assert isinstance(model.layers[1].self_attn.k_proj, nn.QuantizedLinear)
    assert isinstance(model.layers[1].mlp.down_proj, nn.Linear)
    assert_allclose(logits(model), logits(original), atol=1e-2, rtol=0)


def in_halves(values: Floats, num_heads: int) -> Floats:
    """Undoes `tiny_llama.permute` row by row."""
    head_dim = values.shape[0] // num_heads
    order = [head * head_dim + i for head in range(num_heads) for i in (*range(0, head_dim, 2), *range(1, head_dim, 2))]
    return values[order]


def test_the_end_tokens_are_in_the_generation_config(tmp_path: Path) -> None:
    shape = Shape()
    metadata = tiny_llama.metadata(shape) | {"tokenizer.ggml.bos_token_id": tiny_llama.END - 1}
    folder = convert(tmp_path, metadata, tiny_llama.tensors(tiny_llama.build(shape), shape))

    generation = json.loads((folder / "generation_config.json").read_text())

    assert generation == {"bos_token_id": tiny_llama.END - 1, "eos_token_id": [tiny_llama.END, tiny_llama.END - 2]}
    assert load_tokenizer(folder).eos_token == "<|im_end|>"


REFUSED: dict[str, tuple[dict[str, tiny_llama.Value], str]] = {
    "architecture": ({"general.architecture": "qwen2"}, "its architecture is qwen2"),
    "experts": ({"llama.expert_count": 8}, "mixture of experts"),
    "split": ({"split.count": 3}, "join the parts"),
    "tokenizer": ({"tokenizer.ggml.model": "t5"}, "of kind t5"),
    "pre-tokenizer": ({"tokenizer.ggml.pre": "gpt-4o"}, "pre-tokenizer is gpt-4o"),
    "partial rope": ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8"),
    "value length": ({"llama.attention.value_length": 8}, "llama.attention.value_length is 8"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, "rope scaling yarn"),
    "heads": ({"llama.attention.head_count_kv": 3}, "4 heads and 3 key/value heads"),
    "number of heads": ({"llama.attention.head_count": 8, "llama.attention.key_length": 16}, "rows for 8 heads"),
    "missing key": ({"llama.block_count": "many"}, "llama.block_count is not an integer"),
    "id out of range": ({"tokenizer.ggml.eos_token_id": 9999}, "eos_token_id is 9999"),
    "damaged merge": ({"tokenizer.ggml.merges": ["h e", "x y z"]}, "merge 'x y z'"),
    "too many tokens": (
        {"tokenizer.ggml.tokens": [str(i) for i in range(999)], "tokenizer.ggml.token_type": [1] * 999},
        "names 999 tokens",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named(changes: dict[str, tiny_llama.Value], message: str, tmp_path: Path) -> None:
    shape = Shape()
    tensors = tiny_llama.tensors(tiny_llama.build(shape), shape)

    with pytest.raises(ModelLoadError, match=message) as caught:
        convert(tmp_path, tiny_llama.metadata(shape) | changes, tensors)

    assert str(tmp_path / "tiny.gguf") in caught.value.message


def test_a_real_model_answers(tmp_path: Path) -> None:
    folder = sample_folder("smollm2-135m-instruct", tmp_path, lambda _: None)
    model = loaded(folder)
    tokenizer = load_tokenizer(folder)
    # Still 4-bit weights: only their scales and the activations, which a CPU computes with far faster than in float16.
    model.set_dtype(mx.float32)
    assert isinstance(model.layers[0].mlp.up_proj, nn.QuantizedLinear)

    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)

    assert generate(model, tokenizer, prompt, max_tokens=10) == "The capital of France is Paris."


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    shape = Shape()
    tensors = tiny_llama.tensors(tiny_llama.build(shape), shape)
    tensors["blk.0.attn_q_norm.weight"] = f32(np.ones(16, dtype=np.float32))

    with pytest.raises(ModelLoadError, match=r"no tensor blk\.0\.attn_q_norm\.weight"):
        convert(tmp_path, tiny_llama.metadata(shape), tensors)
