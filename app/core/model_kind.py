"""Which kind a model folder is, by its files."""

from pathlib import Path

from app.core.model_config import read_config
from app.core.requests import Kind
from app.errors import ModelLoadError

_EMBEDDING_FILES = ("modules.json", "config_sentence_transformers.json", "1_Pooling")
_EMBEDDING_TYPES = frozenset({"bert", "modernbert", "xlm-roberta", "nomic_bert", "gemma3_text_embedding"})
# By what a model's type is called in the settings.
KIND_OF_TYPE: dict[str, Kind] = {
    "lm": "lm",
    "multimodal": "vlm",
    "vlm": "vlm",
    "embeddings": "embeddings",
    "whisper": "whisper",
    "tts": "speech",
    "image-generation": "images",
    "image-edit": "images",
}


def install_command(kind: Kind) -> str:
    """What brings the libraries that models of a kind need; only vision's extra is not called as its kind."""
    return f"pip install 'mlx-openai-server[{'vision' if kind == 'vlm' else kind}]'"


def kind_of(folder: Path, asked: str | None) -> Kind:
    """The kind that the settings name, else what the folder's files show.

    Errors: ModelLoadError when the folder is no model, or one of a kind that this version does not serve.
    """
    config = {} if _holds_images(folder) else read_config(folder)
    found = asked or _detect(folder, config)
    if KIND_OF_TYPE.get(found) == "images" and not _holds_images(folder):
        raise ModelLoadError(f"'{folder}' holds no image model: it has no folders 'transformer' and 'vae'.")
    if kind := KIND_OF_TYPE.get(found):
        return kind
    raise ModelLoadError(f"'{folder.name}' is a model of kind {found}, which this version does not serve yet.")


def _detect(folder: Path, config: dict[str, object]) -> str:
    if _holds_images(folder):
        return "image-generation"
    model_type = config.get("model_type")
    # Older conversions of Kokoro name no model_type; it has mel bands, too.
    if model_type == "kokoro" or {"istftnet", "plbert"} <= config.keys():
        return "tts"
    if model_type == "whisper" or "n_mels" in config:
        return "whisper"
    if "vision_config" in config or "audio_config" in config:
        return "multimodal"
    if model_type in _EMBEDDING_TYPES or any((folder / name).exists() for name in _EMBEDDING_FILES):
        return "embeddings"
    if model_type is None:
        raise ModelLoadError(f"config.json in '{folder}' names no model_type; it is not a model this server can load.")
    return "lm"


def _holds_images(folder: Path) -> bool:
    """Whether it is laid out as diffusers' and mflux's folders are: a folder for each part of the model."""
    return (folder / "model_index.json").exists() or all((folder / part).is_dir() for part in ("transformer", "vae"))
