"""The Hugging Face hub: what is fetched of a model, and what is said when that fails."""

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
    RevisionNotFoundError,
)

from app.core.samples import SAMPLES
from app.errors import ModelLoadError

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
# What models of other kinds have besides; language models have no files of these names.
_MORE_FILES: Final = (
    # The layers that some embedding models have behind their pooling.
    "*_Dense/model.safetensors",
    # What mlx_whisper's converter writes.
    "weights.safetensors",
    "weights.npz",
    # Kokoro and its voices.
    "kokoro*.safetensors",
    "voices/*.safetensors",
    # The parts of an image model.
    "transformer/*.safetensors",
    "text_encoder*/*.safetensors",
    "vae/*.safetensors",
    "tokenizer*/*.model",
)


def download(model_id: str, revision: str | None = None) -> Path:
    """The folder of a model in the hub's cache, with all that serving it needs; what is missing is fetched.

    It may take hours. Errors: ModelLoadError.
    """
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=[*HUB_FILES, *_MORE_FILES]))
    except (HfHubHTTPError, HFValidationError, IncompleteSnapshotError, httpx.HTTPError, OSError) as error:
        raise ModelLoadError(_advice(model_id, revision, error)) from error


def _advice(model_id: str, revision: str | None, error: Exception) -> str:
    """One sentence on what happened and what to do; a gated repository is also a not found one, hence the order."""
    samples = ", ".join(sample.name for sample in SAMPLES)
    match error:
        case GatedRepoError():
            return (
                f"{model_id} is gated: accept its terms at https://huggingface.co/{model_id} and run `hf auth login`,"
                " or set HF_TOKEN."
            )
        case RevisionNotFoundError():
            return f"{model_id} has no revision {revision}: name a branch, a tag or a commit of it."
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
