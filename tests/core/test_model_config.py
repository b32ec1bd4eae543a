import os
from pathlib import Path

import pytest

from app.core.model_config import context_length, kv_numbers, num_heads, read_config
from app.errors import ModelLoadError


@pytest.mark.parametrize(
    ("config", "asked", "length"),
    [
        ({"max_position_embeddings": 512}, None, 512),
        ({"max_position_embeddings": 512}, 128, 128),
        ({"max_position_embeddings": 512}, 1024, 512),
        ({"text_config": {"max_position_embeddings": 512}}, None, 512),
        ({"max_position_embeddings": 256, "text_config": {"max_position_embeddings": 512}}, None, 256),
        ({"n_positions": 1024, "model_max_length": 64}, None, 1024),
        ({"max_position_embeddings": None, "seq_length": 2048}, None, 2048),
        ({}, None, 32768),
        ({}, 65536, 65536),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, None, 512),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 1}, None, 512),
    ],
)
def test_the_context_is_the_models_or_less(config: dict[str, object], asked: int | None, length: int) -> None:
    assert context_length(config, asked) == length


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (
            {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64},
            2 * 4 * 2 * 8,
        ),
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "head_dim": 16}, 2 * 4 * 8 * 16),
        ({"text_config": {"n_layer": 3, "n_head": 2, "n_embd": 10}, "hidden_size": "odd"}, 2 * 3 * 2 * 5),
        ({"num_hidden_layers": 3, "num_attention_heads": 8, "kv_lora_rank": 16, "qk_rope_head_dim": 4}, 3 * 20),
        ({"num_hidden_layers": "3", "hidden_size": None, "text_config": 1}, 0),
        ({}, 0),
    ],
)
def test_a_token_of_the_kv_cache(config: dict[str, object], numbers: int) -> None:
    assert kv_numbers(config) == numbers


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"num_attention_heads": 9}, 9),
        ({"n_head": 12}, 12),
        ({"num_attention_heads": 4, "text_config": {"num_attention_heads": 8}}, 8),
        ({"model_type": "mamba"}, 0),
    ],
)
def test_heads_are_those_of_the_language_model(config: dict[str, object], heads: int) -> None:
    assert num_heads(config) == heads


@pytest.mark.parametrize("model_type", ["[]", "{}", "3"])
def test_a_type_is_text(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": {model_type}}}')
    with pytest.raises(ModelLoadError, match="model_type that is not text"):
        read_config(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelLoadError, match="is not a file"):
        read_config(tmp_path)
