"""From a model's name to its handler. A new kind of model is one entry here and one handler file."""

from collections.abc import Callable
from pathlib import Path

from app.core.model_kind import install_command, kind_of
from app.core.requests import Kind
from app.errors import ModelLoadError
from app.handler import device
from app.handler.base import AnyHandler, Emit
from app.handler.flux.models import with_repository
from app.handler.source import resolve
from app.settings import ModelSpec


def open_handler(
    spec: ModelSpec, cache_dir: Path, emit: Emit, say: Callable[[str], None], memory_bytes: int | None = None
) -> AnyHandler:
    """Find the model on disk, downloading or converting it if need be, and make its handler; nothing is loaded yet.

    `say` gets sentences about the progress; `memory_bytes` is what the model may plan with, None where it has the
    machine to itself. Errors: ModelLoadError.
    """
    spec = with_repository(spec)
    folder = resolve(spec.model_path, cache_dir, say)
    if spec.draft_model_path is not None:
        spec = spec.model_copy(update={"draft_model_path": str(resolve(spec.draft_model_path, cache_dir, say))})
    kind = kind_of(folder, spec.model_type or (spec.config_name and "image-generation"))
    if kind != "lm" and (spec.adapter_path is not None or spec.adapters):
        flag = "--adapter-path" if spec.adapter_path is not None else f"--adapter {next(iter(spec.adapters))}"
        raise ModelLoadError(f"'{spec.model_path}' is of kind {kind}, which takes no adapters; leave out {flag}.")
    handler = handler_class(kind)
    device.prepare_process()
    return handler(folder, spec, emit, memory_bytes)


def handler_class(kind: Kind) -> type[AnyHandler]:
    """The class of a kind. Errors: ModelLoadError when its libraries are not installed."""
    # Imported when asked for: each kind needs libraries that the others do not.
    try:
        match kind:
            case "lm":
                from app.handler.lm.handler import LMHandler

                return LMHandler
            case "vlm":
                from app.handler.vlm.handler import VLMHandler

                return VLMHandler
            case "embeddings":
                from app.handler.embeddings import EmbeddingsHandler

                return EmbeddingsHandler
            case "whisper":
                from app.handler.whisper.handler import WhisperHandler

                return WhisperHandler
            case "speech":
                from app.handler.speech.handler import SpeechHandler

                return SpeechHandler
            case "images":
                from app.handler.flux.handler import FluxHandler

                return FluxHandler
    except ImportError as error:
        raise ModelLoadError(
            f"Models of kind {kind} need a library that is not installed ({error.name}): {install_command(kind)}"
        ) from error
