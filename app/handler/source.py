"""Finds or fetches the folder of the model that the user named."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from app.errors import ModelLoadError
from app.handler.build_once import convert_once
from app.handler.gguf import write_mlx_folder
from app.handler.samples import SAMPLES, find_sample, sample_folder

# What mlx_lm downloads (`mlx_lm.utils.DEFAULT_ALLOW_PATTERNS`), so that both share one copy in the hub's cache.
HUB_FILES: Final = (
    "*.json",
    "model*.safetensors",
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
)
# The layers that some embedding models have behind their pooling.
DENSE_FILES: Final = "*_Dense/model.safetensors"
# What mlx_whisper's converter writes.
WHISPER_FILES: Final = ("weights.safetensors", "weights.npz")


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
    return _download(model_path, say)


def _is_a_path(model_path: str) -> bool:
    """Whether a name can only mean a local file or folder: a hub id is `name` or `owner/name`."""
    is_marked = model_path.startswith(("/", ".", "~")) or "\\" in model_path or model_path.endswith("/")
    return not model_path or is_marked or model_path.count("/") > 1 or model_path.lower().endswith(".gguf")


def _download(model_id: str, say: Callable[[str], None]) -> Path:
    say(f"fetching {model_id} from the Hugging Face hub")
    try:
        return Path(snapshot_download(model_id, allow_patterns=[*HUB_FILES, DENSE_FILES, *WHISPER_FILES]))
    except (HfHubHTTPError, HFValidationError, IncompleteSnapshotError, httpx.HTTPError, OSError) as error:
        raise ModelLoadError(_advice(model_id, error)) from error


def _advice(model_id: str, error: Exception) -> str:
    """One sentence on what happened and what to do; a gated repository is also a not found one, hence the order."""
    samples = ", ".join(sample.name for sample in SAMPLES)
    match error:
        case GatedRepoError():
            return (
                f"{model_id} is gated: accept its terms at https://huggingface.co/{model_id} and run `hf auth login`,"
                " or set HF_TOKEN."
            )
        case RepositoryNotFoundError() | HFValidationError():
            return (
                f"{model_id} is neither a local folder, nor a model on the Hugging Face hub that can be read, nor a"
                f" sample ({samples}); check its spelling, and set HF_TOKEN if it is private."
            )
        case LocalEntryNotFoundError() | IncompleteSnapshotError() | httpx.TransportError():
            return (
                f"{model_id} is not complete on this machine and the Hugging Face hub cannot be reached; connect to"
                f" the network, unset HF_HUB_OFFLINE, or serve a sample ({samples})."
            )
        case HfHubHTTPError():
            status = error.response.status_code
            return f"{model_id} could not be fetched: the Hugging Face hub answered {status}; try again later."
        case _:
            return f"{model_id} could not be fetched: {error}."
