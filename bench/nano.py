"""A model whose forward pass costs next to nothing, so that a server's and an engine's own cost shows."""

import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_nano(folder: Path, sample: Path) -> Path:
    """A random llama of one layer in `folder`, with the tokenizer and the vocabulary of the model in `sample`."""
    folder.mkdir()
    for name in _TOKENIZER_FILES:
        if (sample / name).exists():
            shutil.copy(sample / name, folder / name)
    theirs = json.loads((sample / "config.json").read_text(encoding="utf-8"))
    config = {
        "model_type": "llama",
        "vocab_size": theirs["vocab_size"],
        "eos_token_id": theirs["eos_token_id"],
        "max_position_embeddings": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.random.seed(7)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    # The likeliest of so many random tokens is far above zero, so those of the others are never chosen.
    weights["lm_head.weight"] *= mx.array(_is_word(sample, theirs["vocab_size"]))[:, None]
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def _is_word(sample: Path, vocab_size: int) -> list[bool]:
    """Which tokens are text as they are: a part of a character would be held back, an end of text would end it."""
    vocabulary = json.loads((sample / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = {number for token, number in vocabulary.items() if re.fullmatch("[\u0120\u2581]?[A-Za-z]+", token)}
    return [number in words for number in range(vocab_size)]
