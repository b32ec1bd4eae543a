"""Finds or fetches the folder of the model that the user named."""

from collections.abc import Callable
from pathlib import Path

from app.core.hub import download
from app.core.samples import find_sample
from app.errors import ModelLoadError
from app.handler.build_once import convert_once
from app.handler.gguf import write_mlx_folder
from app.handler.samples import sample_folder


def resolve(model_path: str, cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The local folder of a sample model, a `.gguf` file, a folder, or a model of the Hugging Face hub, in this order.

    Converting and downloading may take minutes; `say` gets a sentence before each. Raises `ModelLoadError`.
    """
    if find_sample(model_path) is not None:
        return sample_folder(model_path, cache_dir, say)
    path = Path(model_path).expanduser()
    if model_path and path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelLoadError(f"{model_path} is a file; name the folder of an MLX model, or a .gguf file.")
        return convert_once(path, path.stem, cache_dir, write_mlx_folder, say)
    if _is_a_path(model_path):
        raise ModelLoadError(f"{model_path} does not exist; name an existing folder or .gguf file, or a hub id.")
    say(f"fetching {model_path} from the Hugging Face hub")
    return download(model_path)


def _is_a_path(model_path: str) -> bool:
    """Whether a name can only mean a local file or folder: a hub id is `name` or `owner/name`."""
    is_marked = model_path.startswith(("/", ".", "~")) or "\\" in model_path or model_path.endswith("/")
    return not model_path or is_marked or model_path.count("/") > 1 or model_path.lower().endswith(".gguf")
