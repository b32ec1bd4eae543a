"""Why a folder is no model that can be served."""

from pathlib import Path

from app.core.model_config import read_config
from app.core.model_kind import kind_of
from app.core.requests import Kind
from app.doctor.completeness import missing_parts
from app.errors import ModelLoadError
from app.models.architectures import Architectures

_PYTORCH = ("*.bin", "*.pth", "*.pt", "*.ckpt")


def fault_of(folder: Path, architectures: Architectures) -> str | None:
    """A sentence without its full stop, None where nothing speaks against the model."""
    if fault := _fault_of_form(folder):
        return fault
    try:
        kind = kind_of(folder, None)
        if missing := next(missing_parts(folder), None):
            return missing
        if kind == "images":
            return architectures.fault(kind, kind)
        model_type = str(read_config(folder).get("model_type"))
    except ModelLoadError as error:
        return error.message.removesuffix(".")
    return _fault_of_names(folder, kind) or architectures.fault(kind, model_type)


def _fault_of_form(folder: Path) -> str | None:
    """What some folders are instead of a model of MLX."""
    if (folder / "model_index.json").exists() or (folder / "transformer").is_dir():
        return None
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "it is an adapter and no model: give it with --adapter-path, beside its model"
        if file := next(folder.glob("*.gguf"), None):
            return f"it has no config.json, only .gguf files: serve one of them by its path, as {file}"
        return "it has no config.json"
    has_weights = any(folder.rglob("*.safetensors")) or any(folder.glob("*.npz"))
    if not has_weights and (file := next((path for form in _PYTORCH for path in folder.glob(form)), None)):
        return f"it has PyTorch weights only ({file.name}): look for a conversion to safetensors"
    return None


def _fault_of_names(folder: Path, kind: Kind) -> str | None:
    if kind == "lm" and not any(folder.glob("model*.safetensors")):
        return "none of its weights are in files that mlx_lm reads (model*.safetensors)"
    if kind == "speech" and not any(folder.glob("voices/*.safetensors")):
        return "it has no voices (voices/*.safetensors)"
    return None
