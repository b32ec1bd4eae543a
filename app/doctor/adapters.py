"""Checks of adapters: are they here, and are they complete."""

from collections.abc import Iterator
from pathlib import Path

from app.doctor.completeness import missing_parts
from app.doctor.finding import Finding
from app.settings import ModelSpec

_FILES = ("adapter_config.json", "adapters.safetensors")


def adapter_findings(spec: ModelSpec) -> Iterator[Finding]:
    """What is found of each adapter of a model."""
    folders = {} if spec.adapter_path is None else {spec.adapter_path.name: spec.adapter_path}
    for name, folder in (folders | spec.adapters).items():
        subject = f"adapter {name} of {spec.name}"
        if fault := _fault_of(folder):
            yield Finding(subject, "problem", fault, "give the folder that `mlx_lm.lora` wrote, or train it again")
        else:
            yield Finding(subject, "ok", str(folder))


def _fault_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return f"{folder} is no folder" if folder.exists() else f"{folder} does not exist"
    if (folder / "adapter_model.safetensors").exists():
        return f"{folder} is in PEFT's format"
    missing = (f"{name} is missing" for name in _FILES if not (folder / name).is_file())
    fault = next(missing, None) or next(missing_parts(folder), None)
    return fault and f"{folder} is not complete: {fault}"
