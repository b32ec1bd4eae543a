"""LoRA adapters of language models, as mlx_lm trains and writes them."""

import hashlib
import json
from pathlib import Path
from typing import Final

from mlx import nn
from mlx_lm.utils import load_adapters

from app.errors import ModelLoadError

ADAPTER_FILES: Final = ("adapter_config.json", "adapters.safetensors")
# How the libraries answer files that are damaged, or were made for another model.
FAULTS: Final = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def put_on(model: nn.Module, folder: Path, called: str) -> None:
    """Add an adapter's layers to a model with its weights loaded, quantised or not; it is what messages call it.

    Errors: ModelLoadError.
    """
    check_files(folder, called)
    try:
        load_adapters(model, str(folder))
    except FAULTS as error:
        raise ModelLoadError(f"{called} does not fit this model: {_said(error)}") from error
    # Its layers are new: they would drop values at random, as in training.
    model.eval()


def check_files(folder: Path, called: str) -> None:
    """Errors: ModelLoadError where a folder does not hold what `mlx_lm.lora` writes."""
    if not folder.is_dir():
        raise ModelLoadError(f"{called} is no folder; give the one that `mlx_lm.lora` wrote.")
    if (folder / "adapter_model.safetensors").exists():
        raise ModelLoadError(f"{called} is in PEFT's format; give one that `mlx_lm.lora` has trained.")
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise ModelLoadError(f"{called} has no {name}; give the folder that `mlx_lm.lora` wrote.")


def style_of(folder: Path, called: str) -> str:
    """How an adapter was trained: lora, dora or full. Errors: ModelLoadError."""
    check_files(folder, called)
    try:
        return str(json.loads((folder / ADAPTER_FILES[0]).read_bytes()).get("fine_tune_type", "lora"))
    except FAULTS as error:
        raise ModelLoadError(f"{called} does not fit this model: {_said(error)}") from error


def adapter_fingerprint(folder: Path) -> str:
    """Changes with what an adapter does to a model; its weights are told apart by size and time."""
    config, weights = (folder / name for name in ADAPTER_FILES)
    status = weights.stat()
    parts = (hashlib.sha256(config.read_bytes()).hexdigest(), str(status.st_size), str(status.st_mtime_ns))
    return " ".join(parts)


def _said(error: Exception) -> str:
    """The first two lines of mlx_lm's message: the second names the first weight that does not fit."""
    if isinstance(error, KeyError):
        return f"its {ADAPTER_FILES[0]} lacks {error}"
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
