"""Converts a llama-architecture `.gguf` file into an MLX model folder."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose, pi
from pathlib import Path
from typing import Final, TypeAlias

import mlx.core as mx

from app.errors import ModelLoadError
from app.handler.gguf_header import GgufHeader, read_header
from app.handler.gguf_tokenizer import GgufVocabulary, read_vocabulary, write_tokenizer

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_LAYER_NAMES: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_ROPE_FACTORS: Final = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class _Attention:
    num_heads: int
    num_kv_heads: int
    head_dim: int


def write_mlx_folder(source: Path, folder: Path) -> None:
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer into an existing folder.

    4- and 8-bit tensors that MLX takes as they are stay quantised, all others become float16. Raises `ModelLoadError`
    for what cannot be converted.
    """
    header = read_header(source)
    _refuse_unsupported(header)
    attention = _read_attention(header)
    vocabulary = read_vocabulary(header)
    loaded = _load(source)
    factors = loaded.pop(_ROPE_FACTORS, None)
    weights = _renamed(header, attention, loaded)
    _add_missing_biases(weights)
    config = _config(header, attention, vocabulary, weights)
    config["rope_scaling"] = _rope_scaling(header, attention, factors)
    write_tokenizer(header, vocabulary, folder)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id") if key in config}
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "config.json", config)


def _refuse_unsupported(header: GgufHeader) -> None:
    architecture = header.text("general.architecture")
    problem = ""
    if architecture != "llama":
        problem = f"its architecture is {architecture}, only llama can be"
    elif header.integer("llama.expert_count", 0) > 0:
        problem = "it is a mixture of experts"
    elif header.integer("split.count", 1) > 1:
        problem = "it is one part of a split file; join the parts first"
    if problem:
        raise ModelLoadError(f"{header.path} cannot be converted: {problem}.")


def _read_attention(header: GgufHeader) -> _Attention:
    num_heads = header.integer("llama.attention.head_count")
    num_kv_heads = header.integer("llama.attention.head_count_kv", num_heads)
    width = header.integer("llama.embedding_length")
    if num_heads <= 0 or num_kv_heads <= 0 or num_heads % num_kv_heads:
        raise ModelLoadError(f"{header.path} is damaged: it has {num_heads} heads and {num_kv_heads} key/value heads.")
    head_dim = header.integer("llama.attention.key_length", width // num_heads)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if (other := header.integer(key, head_dim)) != head_dim:
            raise ModelLoadError(
                f"{header.path} cannot be converted: {key} is {other} and its heads have {head_dim} dimensions."
            )
    return _Attention(num_heads, num_kv_heads, head_dim)


def _load(source: Path) -> dict[str, mx.array]:
    try:
        loaded = mx.load(str(source), format="gguf")
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"{source} cannot be read by MLX: {error}.") from error
    if not isinstance(loaded, dict):
        raise ModelLoadError(f"{source} cannot be read by MLX: it holds no named tensors.")
    return loaded


def _renamed(header: GgufHeader, attention: _Attention, loaded: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The weights under MLX's names and in MLX's row order; packed words stay, everything else is float16."""
    num_rotated = {"attn_q": attention.num_heads, "attn_k": attention.num_kv_heads}
    weights: dict[str, mx.array] = {}
    for name, loaded_array in loaded.items():
        array = loaded_array
        stem, _, part = name.rpartition(".")
        prefix, _, place = stem.rpartition(".")
        if num_heads := num_rotated.get(place):
            if array.shape[0] != num_heads * attention.head_dim:
                raise ModelLoadError(
                    f"{header.path} is damaged: {name} has {array.shape[0]} rows for {num_heads} heads."
                )
            array = _halves(array, num_heads)
        if prefix.startswith("blk.") and place in _LAYER_NAMES:
            module = f"model.layers.{prefix[4:]}.{_LAYER_NAMES[place]}"
        elif stem in _OUTER_NAMES:
            module = _OUTER_NAMES[stem]
        else:
            raise ModelLoadError(f"{header.path} cannot be converted: a llama model has no tensor {name}.")
        weights[f"{module}.{part}"] = array if array.dtype == mx.uint32 else array.astype(mx.float16)
    return weights


def _halves(array: mx.array, num_heads: int) -> mx.array:
    """Puts the rows of each head back into the order of rotation in halves.

    llama.cpp rotates neighbouring pairs and stores (0, d/2, 1, d/2+1, …); MLX stores 0 … d-1. The rows are dimension 0
    of weights, scales and biases alike. Source: `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    pairs = mx.unflatten(array, 0, (num_heads, -1, 2))
    return mx.flatten(mx.swapaxes(pairs, 1, 2), 0, 2)


def _add_missing_biases(weights: dict[str, mx.array]) -> None:
    """Gives every projection of a block a zero bias where one of them has a bias: MLX's switch is one for all."""
    for block in (("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")):
        stems = [name.removesuffix(".weight") for name in weights if name.endswith(tuple(f"{p}.weight" for p in block))]
        if any(f"{stem}.bias" in weights for stem in stems):
            for stem in stems:
                num_rows = weights[f"{stem}.weight"].shape[0]
                weights.setdefault(f"{stem}.bias", mx.zeros((num_rows,), dtype=mx.float16))


def _config(
    header: GgufHeader, attention: _Attention, vocabulary: GgufVocabulary, weights: Mapping[str, mx.array]
) -> dict[str, Json]:
    # The embedding decides: files pad it beyond the tokens they name.
    vocab_size = header.tensor("token_embd.weight").shape[0]
    if len(vocabulary.tokens) > vocab_size:
        raise ModelLoadError(
            f"{header.path} is damaged: it names {len(vocabulary.tokens)} tokens and has embeddings for {vocab_size}."
        )
    config: dict[str, Json] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": header.integer("llama.embedding_length"),
        "intermediate_size": header.integer("llama.feed_forward_length"),
        "num_hidden_layers": header.integer("llama.block_count"),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "rms_norm_eps": header.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": header.number("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": header.integer("llama.context_length"),
        "vocab_size": vocab_size,
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "attention_bias": any(name.endswith("q_proj.bias") for name in weights),
        "mlp_bias": any(name.endswith("up_proj.bias") for name in weights),
    }
    if vocabulary.bos is not None:
        config["bos_token_id"] = vocabulary.bos
    if vocabulary.ends:
        config["eos_token_id"] = list(vocabulary.ends)
    if (quantization := _quantization(weights)) is not None:
        config["quantization"] = config["quantization_config"] = quantization
    return config


def _quantization(weights: Mapping[str, mx.array]) -> dict[str, Json] | None:
    """The commonest quantisation for the whole model, and an entry for each layer that differs from it."""
    layers: dict[str, tuple[int, int]] = {}
    for name, scales in weights.items():
        if name.endswith(".scales"):
            layer = name.removesuffix(".scales")
            # mx.load makes groups of 32 of every type that it keeps quantised: `bits` words of 32 bits for each scale.
            bits = weights[f"{layer}.weight"].shape[1] // scales.shape[1]
            layers[layer] = (32, bits)
    if not layers:
        return None
    (common, _), *_ = Counter(layers.values()).most_common(1)
    group_size, bits = common
    quantization: dict[str, Json] = {"group_size": group_size, "bits": bits}
    for layer, (layer_group_size, layer_bits) in layers.items():
        if (layer_group_size, layer_bits) != common:
            quantization[layer] = {"group_size": layer_group_size, "bits": layer_bits}
    return quantization


def _rope_scaling(header: GgufHeader, attention: _Attention, factors: mx.array | None) -> dict[str, Json] | None:
    kind = header.text("llama.rope.scaling.type", "none")
    factor = header.number("llama.rope.scaling.factor", header.number("llama.rope.scale_linear", 0.0))
    if kind == "none" and "llama.rope.scale_linear" in header.metadata:
        kind = "linear"
    if kind not in ("none", "linear") or (kind == "linear" and factors is not None):
        raise ModelLoadError(f"{header.path} cannot be converted: its rope scaling {kind} is not supported.")
    if factors is not None:
        return _scaling_of_factors(header, attention, [float(entry) for entry in _floats(factors)])
    return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor not in (0.0, 1.0) else None


def _floats(array: mx.array) -> list[float]:
    values = array.astype(mx.float32).tolist()
    return [value for value in values if isinstance(value, float)] if isinstance(values, list) else []


def _scaling_of_factors(header: GgufHeader, attention: _Attention, factors: list[float]) -> dict[str, Json]:
    """The rope scaling that divides the frequencies by `factors`, one for each pair of dimensions.

    The file has only the factors. Where they are those of Llama 3.1, that is what is written; otherwise they are
    written as they are, as a `longrope` whose original context is the whole context, so that it scales nothing else.
    """
    if len(factors) != attention.head_dim // 2:
        raise ModelLoadError(
            f"{header.path} is damaged: {_ROPE_FACTORS} has {len(factors)} entries for heads of {attention.head_dim}."
        )
    base = header.number("llama.rope.freq_base", 10000.0)
    llama3 = _llama3_factors(base, attention.head_dim, max(factors))
    if all(isclose(ours, theirs, rel_tol=1e-4) for ours, theirs in zip(llama3, factors, strict=True)):
        return {
            "rope_type": "llama3",
            "factor": max(factors),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return {
        "rope_type": "longrope",
        "short_factor": list(factors),
        "long_factor": list(factors),
        "original_max_position_embeddings": header.integer("llama.context_length"),
    }


def _llama3_factors(base: float, head_dim: int, factor: float) -> list[float]:
    """What Llama 3.1 divides its frequencies by: nothing below 2048 positions a turn, `factor` above 8192.

    Source: `_compute_llama3_parameters` in transformers/modeling_rope_utils.py.
    """
    factors: list[float] = []
    for pair in range(head_dim // 2):
        wavelength = 2 * pi * base ** (2 * pair / head_dim)
        smooth = min(max((8192 / wavelength - 1.0) / 3.0, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _write_json(path: Path, value: Mapping[str, Json]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
