"""`models info`: what a model is, what it takes, and how it will be read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from app.api.capabilities import capabilities
from app.core import machine
from app.core.model_files import ModelFiles, expected_bytes, read_model_files
from app.models.inventory import Found
from app.models.layout import count_text, launch_command, pairs, size_text
from app.settings import ModelSpec
from app.text.detection import Detected, detect_family


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model before it is loaded; None where that is not known, or has no meaning for its kind.

    `family` is that of its markup of reasoning and tool calls, `why` the sentence on how it was found.
    """

    found: Found
    num_parameters: int | None
    memory_bytes: int | None
    has_chat_template: bool | None
    family: str | None
    why: str | None
    capabilities: list[str] | None
    launch: str | None


def inform(found: Found) -> ModelInfo:
    """Read a model's files."""
    files = None if found.place is None else read_model_files(ModelSpec(model_path=str(found.place)))
    if files is None:
        return ModelInfo(found, None, None, None, None, None, None, None)
    spec = ModelSpec(model_path=found.name)
    is_language_model = files.kind in ("lm", "vlm")
    detected = _detected(found.place, files) if is_language_model else None
    is_cpu = machine.computes_on_cpu()
    return ModelInfo(
        found=found,
        num_parameters=files.weights.num_parameters or None,
        memory_bytes=expected_bytes(files, spec, memory_bytes=machine.memory_bytes(), is_cpu=is_cpu),
        has_chat_template=files.chat_template is not None if is_language_model else None,
        family=detected and detected.family,
        why=detected and detected.why,
        capabilities=cast("list[str] | None", capabilities(files.kind, files.chat_template, spec)),
        launch=None if found.fault else launch_command(found.name),
    )


def described(info: ModelInfo) -> str:
    """For people."""
    return pairs([(label, text) for label, text in _rows(info) if text is not None])


def _rows(info: ModelInfo) -> list[tuple[str, str | None]]:
    found = info.found
    template = {True: "there", False: "none: it completes texts only", None: None}[info.has_chat_template]
    room = f"{size_text(machine.models_memory_bytes())} in this machine"
    return [
        ("model", found.name),
        ("cannot be served", found.fault and f"{found.fault}."),
        ("place", found.place and str(found.place)),
        ("kind", found.kind),
        ("architecture", found.architecture),
        ("parameters", count_text(info.num_parameters) if info.num_parameters else None),
        ("weights", found.quantisation),
        ("on disk", size_text(found.size_bytes)),
        ("memory", f"{size_text(info.memory_bytes)} once it is loaded, of {room}" if info.memory_bytes else None),
        ("context", f"{found.context_length} tokens" if found.context_length else None),
        ("chat template", template),
        ("reasoning and tool calls", info.why),
        ("can do", ", ".join(info.capabilities) if info.capabilities else None),
        ("serve it", info.launch),
    ]


def _detected(place: Path | None, files: ModelFiles) -> Detected | None:
    if place is None or not place.is_dir():
        return None
    config = _object(place / "tokenizer_config.json")
    return detect_family(files.chat_template, frozenset(_added_tokens(place, config)), _hint(config))


def _added_tokens(folder: Path, config: dict[str, object]) -> Iterator[str]:
    tokens: list[object] = []
    for entries in (_object(folder / "tokenizer.json").get("added_tokens"), config.get("added_tokens_decoder")):
        match entries:
            case list():
                tokens += cast("list[object]", entries)
            case dict():
                tokens += cast("dict[str, object]", entries).values()
            case _:
                pass
    for token in tokens:
        match token:
            case {"content": str(text)}:
                yield text
            case _:
                pass


def _hint(config: dict[str, object]) -> str | None:
    """As the chat template's reader takes it from the loaded tokenizer."""
    name = config.get("tool_parser_type")
    if isinstance(name, str):
        return name
    description = config.get("response_template")
    return None if description is None else json.dumps(description)


def _object(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
