"""The folders of the sample models, made of what their packages carry."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.core.samples import SAMPLES, find_sample, not_installed, place_in_package
from app.errors import ModelLoadError
from app.handler.build_once import convert_once
from app.handler.gguf import write_mlx_folder
from app.handler.whisper_weights import write_whisper_folder

_FOLDER_FILES: Final = ("config.json", "tokenizer.json", "model.safetensors")


def sample_folder(name: str, cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The MLX model folder of a sample, converted on first use; `say` gets a sentence when that takes place.

    Raises `ModelLoadError` when there is no such sample, or its package is missing or has other contents.
    """
    sample = find_sample(name)
    if sample is None:
        names = ", ".join(sample.name for sample in SAMPLES)
        raise ModelLoadError(f"There is no sample model {name}; there are {names}.")
    place = place_in_package(sample)
    match sample.form:
        case "gguf":
            return convert_once(place, sample.name, cache_dir, write_mlx_folder, say)
        case "ctranslate2":
            return convert_once(place, sample.name, cache_dir, write_whisper_folder, say)
        case "folder":
            for file in _FOLDER_FILES:
                if not (place / file).is_file():
                    raise not_installed(sample, f"the installed package has no {sample.place}/{file}")
            return place
