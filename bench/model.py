"""The model that is measured: what the user names, or a nano model with its tokenizer."""

from pathlib import Path
from typing import Final

from app.bench.command import Failure, say
from app.errors import ModelLoadError

SAMPLE: Final = "smollm2-135m-instruct"


def model_folder(model_path: str, nano: bool, directory: Path) -> Path:
    """Its folder; a nano model is written to `directory`. Errors: Failure."""
    # MLX is imported where a model is converted or written.
    from app.handler.source import resolve
    from app.settings import load_settings

    cache_dir = load_settings({}, {}, directory).cache_dir
    try:
        folder = resolve(model_path, cache_dir, say).absolute()
    except ModelLoadError as error:
        raise Failure(str(error)) from None
    if not nano:
        return folder
    from bench.nano import write_nano

    return write_nano(directory / "nano", folder)
