"""From a model's name to its handler. A new kind of model is one entry here and one handler file."""

from collections.abc import Callable
from pathlib import Path

from app.core.requests import Kind
from app.errors import ModelLoadError
from app.handler import device
from app.handler.base import AnyHandler, Emit
from app.handler.kind import kind_of
from app.handler.source import resolve
from app.settings import ModelSpec


def open_handler(spec: ModelSpec, cache_dir: Path, emit: Emit, say: Callable[[str], None]) -> AnyHandler:
    """Find the model on disk, downloading or converting it if need be, and make its handler; nothing is loaded yet.

    `say` gets sentences about the progress. Errors: ModelLoadError.
    """
    folder = resolve(spec.model_path, cache_dir, say)
    if spec.draft_model_path is not None:
        spec = spec.model_copy(update={"draft_model_path": str(resolve(spec.draft_model_path, cache_dir, say))})
    kind = kind_of(folder, spec.model_type)
    handler = _handler_class(kind)
    device.prepare_process()
    return handler(folder, spec, emit)


def _handler_class(kind: Kind) -> type[AnyHandler]:
    # Imported when asked for: each kind needs libraries that the others do not.
    try:
        match kind:
            case "lm":
                from app.handler.lm.handler import LMHandler

                return LMHandler
            case "embeddings":
                from app.handler.embeddings import EmbeddingsHandler

                return EmbeddingsHandler
    except ImportError as error:
        raise ModelLoadError(
            f"Models of kind {kind} need a library that is not installed ({error.name}): "
            f"pip install 'mlx-openai-server[{kind}]'"
        ) from error
