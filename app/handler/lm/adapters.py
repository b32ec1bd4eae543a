"""LoRA adapters of language models, as mlx_lm trains and writes them."""

import hashlib
from pathlib import Path
from typing import Final

from mlx import nn
from mlx_lm.utils import load_adapters

from app.errors import ModelLoadError

ADAPTER_FILES: Final = ("adapter_config.json", "adapters.safetensors")
# How the library answers files that are damaged, or were made for another model.
_FAULTS: Final = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def put_on(model: nn.Module, folder: Path) -> None:
    """Add an adapter's layers to a model with its weights loaded, quantised or not. Errors: ModelLoadError."""
    if not folder.is_dir():
        raise ModelLoadError(f"The adapter '{folder}' is no folder; give an existing one with --adapter-path.")
    if (folder / "adapter_model.safetensors").exists():
        raise ModelLoadError(
            f"The adapter '{folder}' is in PEFT's format; give one that `mlx_lm.lora` has trained, with --adapter-path."
        )
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise ModelLoadError(f"The adapter '{folder}' has no {name}; give the folder that `mlx_lm.lora` wrote.")
    try:
        load_adapters(model, str(folder))
    except _FAULTS as error:
        raise ModelLoadError(f"The adapter '{folder}' does not fit this model: {_said(error)}") from error
    # Its layers are new: they would drop values at random, as in training.
    model.eval()


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
