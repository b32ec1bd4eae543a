"""What a model's config.json says."""

import json
from collections.abc import Mapping
from pathlib import Path

from app.errors import ModelLoadError

_FALLBACK_TOKENS = 32768
_LIMIT_NAMES = ("max_position_embeddings", "max_sequence_length", "seq_length", "n_positions", "model_max_length")
# These number their positions from pad_token_id + 1 on, and their limit counts the numbers before it, too.
_OFFSET_TYPES = frozenset({"camembert", "roberta", "xlm-roberta"})


def context_length(config: Mapping[str, object], asked: int | None) -> int:
    """Tokens of input and answer together: the limit in the model's config.json, or less if the settings say so."""
    text_config = config.get("text_config")
    layers = [config, text_config] if isinstance(text_config, dict) else [config]
    own = next((value for layer in layers for name in _LIMIT_NAMES if isinstance(value := layer.get(name), int)), None)
    if own and config.get("model_type") in _OFFSET_TYPES and isinstance(padding := config.get("pad_token_id"), int):
        own -= padding + 1
    limits = [limit for limit in (own, asked) if limit]
    return min(limits) if limits else _FALLBACK_TOKENS


def kv_numbers(config: Mapping[str, object]) -> int:
    """Numbers that a token adds to the KV cache, at most: models with other caches than plain ones add fewer."""
    merged = _of_text(config)
    layers = _whole(merged, "num_hidden_layers", "n_layer", "num_layers")
    heads, width = num_heads(config), _whole(merged, "hidden_size", "n_embd")
    # Multi-head latent attention keeps one short vector for all heads.
    if rank := _whole(merged, "kv_lora_rank"):
        return layers * (rank + _whole(merged, "qk_rope_head_dim"))
    head_width = _whole(merged, "head_dim") or (width // heads if heads else 0)
    return 2 * layers * (_whole(merged, "num_key_value_heads") or heads) * head_width


def num_heads(config: Mapping[str, object]) -> int:
    """Heads of attention in a layer; 0 where it does not say."""
    return _whole(_of_text(config), "num_attention_heads", "n_head")


def read_config(folder: Path) -> dict[str, object]:
    """The config.json of a model's folder. Errors: ModelLoadError."""
    path = folder / "config.json"
    try:
        # Whoever opens a pipe waits for what may never come.
        if path.exists() and not path.is_file():
            raise ModelLoadError(f"'{path}' is not a file: put the model's own there.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(f"'{folder}' is not a model folder: it has no config.json.") from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"'{path}' does not hold a JSON object.")
    if not isinstance(config.get("model_type", ""), str | None):
        raise ModelLoadError(f"'{path}' has a model_type that is not text.")
    return config


def _of_text(config: Mapping[str, object]) -> Mapping[str, object]:
    """What is said of the language model, in one that also sees or hears."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _whole(config: Mapping[str, object], *names: str) -> int:
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), 0)
