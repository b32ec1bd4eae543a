"""A command to try a model with, told when the server starts."""

import json
from pathlib import Path
from typing import Final

from app.core.model_kind import KIND_OF_TYPE, kind_of
from app.core.requests import ENDPOINT_OF_KIND, Kind
from app.errors import ModelLoadError
from app.settings import ModelSpec

# What kind a model is that is not on this machine shows when it is there; its name is a good guess.
_WORDS: Final[dict[Kind, tuple[str, ...]]] = {
    "whisper": ("whisper",),
    "speech": ("kokoro",),
    "embeddings": ("embed", "minilm", "bge-", "e5-"),
    "images": ("flux", "qwen-image", "z-image", "fibo"),
}
# What these models make of a text alone is nothing.
_EDITORS: Final = ("edit", "kontext", "fill")
_FIELDS: Final[dict[Kind, dict[str, object]]] = {
    "lm": {"messages": [{"role": "user", "content": "Hello!"}]},
    "embeddings": {"input": ["Hello", "Good morning"]},
    "speech": {"input": "Hello!", "voice": "af_heart"},
    "images": {"prompt": "a fox in the snow", "response_format": "url"},
}


def example_command(spec: ModelSpec, url: str, key: str) -> list[str]:
    """The lines of a command that asks a model for something; `key` is what it says of an API key."""
    kind = _kind(spec)
    if kind == "whisper":
        return _form(url + ENDPOINT_OF_KIND[kind], key, model=spec.name, file="@speech.wav")
    if kind == "images" and _is_editor(spec):
        return _form(f"{url}/v1/images/edits", key, model=spec.name, image="@picture.png", prompt="make it snow")
    body = {"model": spec.name} | _FIELDS.get(kind, _FIELDS["lm"])
    # In the command's own quotation marks.
    text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    output = " -o speech.mp3" if kind == "speech" else ""
    return [f"  curl {url}{ENDPOINT_OF_KIND[kind]}{key}{output} \\", f"    -d '{text}'"]


def _form(url: str, key: str, **fields: str) -> list[str]:
    values = (f"{name}={value}".replace("'", "'\\''") for name, value in fields.items())
    return [f"  curl {url}{key} \\", "    " + " ".join(f"-F '{value}'" for value in values)]


def _kind(spec: ModelSpec) -> Kind:
    if spec.config_name is not None:
        return "images"
    if spec.model_type is not None:
        return KIND_OF_TYPE[spec.model_type]
    folder = Path(spec.model_path)
    try:
        # Else it might wait for what never comes, as a pipe does.
        if (folder / "config.json").is_file() or not (folder / "config.json").exists():
            return kind_of(folder, None)
    except (ModelLoadError, OSError):
        pass
    for kind, words in _WORDS.items():
        if any(word in _name(spec) for word in words):
            return kind
    return "lm"


def _is_editor(spec: ModelSpec) -> bool:
    # A klein makes pictures of a text, too, whatever it is called.
    asked = spec.config_name or _name(spec)
    return "klein" not in asked and (spec.model_type == "image-edit" or any(word in asked for word in _EDITORS))


def _name(spec: ModelSpec) -> str:
    return Path(spec.model_path).name.lower()
