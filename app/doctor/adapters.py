"""Checks of adapters: are they here, are they complete, and can the model have them."""

import json
from collections.abc import Iterator
from pathlib import Path

from app.core.model_files import read_model_files
from app.doctor.completeness import missing_parts
from app.doctor.finding import Finding
from app.settings import ModelSpec

_FILES = ("adapter_config.json", "adapters.safetensors")


def adapter_findings(spec: ModelSpec) -> Iterator[Finding]:
    """What is found of each adapter of a model."""
    folders = {} if spec.adapter_path is None else {spec.adapter_path.name: spec.adapter_path}
    folders |= spec.adapters
    files = read_model_files(spec) if folders else None
    for name, folder in folders.items():
        subject = f"adapter {name} of {spec.name}"
        if files is not None and files.kind not in (None, "lm"):
            yield Finding(subject, "problem", f"a model of kind {files.kind} takes no adapters", "leave it out")
        elif fault := _fault_of(folder):
            yield Finding(subject, "problem", fault, "give the folder that `mlx_lm.lora` wrote, or train it again")
        elif name in spec.adapters and (style := _style_of(folder)) != "lora":
            about = f"{folder} is of type {style}, which cannot share its base with others"
            yield Finding(subject, "problem", about, "serve it as a model of its own, with --adapter-path")
        else:
            yield Finding(subject, "ok", str(folder))


def _style_of(folder: Path) -> str:
    """How it was trained; as usual where that cannot be read, which the start says better."""
    try:
        return str(json.loads((folder / _FILES[0]).read_bytes()).get("fine_tune_type", "lora"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return "lora"


def _fault_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is no folder" if folder.exists() else f"{folder} does not exist"
    if (folder / "adapter_model.safetensors").exists():
        return f"{folder} is in PEFT's format"
    missing = (f"{name} is missing" for name in _FILES if not (folder / name).is_file())
    fault = next(missing, None) or next(missing_parts(folder), None)
    return fault and f"{folder} is not complete: {fault}"
