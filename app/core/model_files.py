"""What is known of a model before it is loaded: where its files lie, and what they say."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from app.core import machine
from app.core.model_config import context_length, kv_numbers, read_config
from app.core.model_kind import kind_of
from app.core.requests import Kind
from app.core.weight_files import Weights, adapter_weights, weights_of
from app.errors import ModelLoadError
from app.settings import ModelSpec

# A worker with its libraries, before it has loaded anything, and room to compute.
_WORKER_BYTES = 256 * 2**20
# The KV cache that a model has room for at least: a long chat, or several short ones.
_KV_TOKENS = 8192
_LONGEST_TEMPLATE_FILE = 64 * 2**20
# It is searched for signs of its family whenever models are listed.
_LONGEST_TEMPLATE = 2**20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's files say; `kv_numbers` are those that a token adds to its KV cache.

    `adapters` are those beside the model, as they are in memory.
    """

    kind: Kind | None
    context_length: int | None
    weights: Weights
    kv_numbers: int = 0
    chat_template: str | None = None
    adapters: Weights = field(default_factory=Weights)


def read_model_files(spec: ModelSpec, used: Path | None = None) -> ModelFiles | None:
    """Read them, in a thread that may block; None where they are not on this machine, or are no model.

    `used` is the folder that the model was last loaded from: that of a sample, or of a converted file.
    """
    try:
        place = place_of(spec.model_path)
        if used is not None and used.is_dir() and not (place is not None and place.is_dir()):
            place = used
        if place is None:
            return None
        config = read_config(place) if (place / "config.json").is_file() else {}
        weights = weights_of(place, _group_size(config))
        if spec.draft_model_path and (draft := place_of(spec.draft_model_path)):
            weights += weights_of(draft, None)
        if spec.adapter_path is not None:
            weights += adapter_weights(spec.adapter_path)
        adapters = _side_by_side(map(adapter_weights, spec.adapters.values()))
        kind = _kind(place, spec, config)
    except (ModelLoadError, OSError, ValueError, RecursionError):
        return None
    length = context_length(config, spec.context_length) if kind in ("lm", "vlm", "embeddings") else None
    numbers = kv_numbers(config) if kind in ("lm", "vlm") else 0
    return ModelFiles(kind, length, weights, numbers, _chat_template(spec, place), adapters)


def expected_bytes(files: ModelFiles, spec: ModelSpec, *, memory_bytes: int, is_cpu: bool) -> int:
    """Memory that a model takes once it is loaded, with some room for what it works on."""
    number_bytes = 2
    weights = files.weights + files.adapters
    weight_bytes = weights.num_bytes
    if files.kind == "images":
        weight_bytes = weight_bytes * (spec.quantize or 16) // 16
    elif is_cpu and machine.has_room_for_float32(weights.num_parameters, memory_bytes):
        number_bytes = 4
        weight_bytes = max(weight_bytes, number_bytes * weights.num_parameters)
    if spec.kv_bits:
        number_bytes = spec.kv_bits / 8
    num_tokens = min(files.context_length or _KV_TOKENS, spec.max_kv_size or _KV_TOKENS, _KV_TOKENS)
    kv_bytes = spec.max_kv_bytes or int(files.kv_numbers * num_tokens * number_bytes)
    return _WORKER_BYTES + weight_bytes + kv_bytes + (spec.prompt_cache_bytes or 0)


def place_of(model_path: str) -> Path | None:
    """The folder or .gguf file of a model that is on this machine, perhaps in the cache of the Hugging Face hub."""
    path = Path(model_path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    return place_in_cache(model_path)


def place_in_cache(repository_id: str) -> Path | None:
    """The folder that the cache of the Hugging Face hub has of a model's main version."""
    # Imported when asked for: few need it, and it takes a while.
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{repository_id.replace('/', '--')}"
    try:
        if not (main := repository / "refs" / "main").is_file():
            return None
        commit = main.read_text(encoding="ascii").strip()
        folder = repository / "snapshots" / commit
        return folder if folder.is_dir() else None
    except (OSError, ValueError):
        return None


def _side_by_side(adapters: Iterable[Weights]) -> Weights:
    """Each takes as much as the largest, and so does what rows without any have."""
    every = [(one.num_bytes, one.num_parameters) for one in adapters]
    if not every:
        return Weights()
    most_bytes, most_parameters = map(max, zip(*every, strict=True))
    return Weights((len(every) + 1) * most_bytes, (len(every) + 1) * most_parameters)


def _kind(place: Path, spec: ModelSpec, config: Mapping[str, object]) -> Kind | None:
    """Errors: ModelLoadError for a model that is not served."""
    if place.is_file():
        return "lm"
    return kind_of(place, spec.model_type) if config or (place / "transformer").is_dir() else None


def _group_size(config: Mapping[str, object]) -> int | None:
    match config.get("quantization") or config.get("quantization_config"):
        case {"group_size": int(group_size)}:
            return group_size
        case _:
            return None


def _chat_template(spec: ModelSpec, folder: Path) -> str | None:
    """Its text, where it lies as a text in one of its usual places."""
    for path in (spec.chat_template_file, folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if path is None or not path.is_file() or path.stat().st_size > _LONGEST_TEMPLATE_FILE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
            found = cast("object", json.loads(text).get("chat_template")) if path.suffix == ".json" else text
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(found, str) and len(found) <= _LONGEST_TEMPLATE:
            return found
    return None
