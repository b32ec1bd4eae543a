"""What every model kind implements: a handler runs one model inside a worker."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from app.core.events import Event, LastEvent
from app.core.frames import CacheStats, ModelInfo
from app.settings import ModelSpec

Emit = Callable[[int, Event], None]
RequestT = TypeVar("RequestT")
PreparedT = TypeVar("PreparedT")


class Handler(ABC, Generic[RequestT, PreparedT]):
    """One loaded model. `prepare` runs in the prepare thread, everything else in the thread that called `load`.

    A handler's `turn` never raises for a fault of one request: that request gets a `Failed` event, the others go on.
    """

    def __init__(self, folder: Path, spec: ModelSpec, emit: Emit, memory_bytes: int | None = None) -> None:
        self.folder = folder
        self.spec = spec
        self.emit = emit
        # What the model may plan with; None where it has the machine to itself.
        self.memory_bytes = memory_bytes

    @abstractmethod
    def load(self) -> ModelInfo:
        """Load the weights and warm up. Errors: ModelLoadError with one sentence that says what to do."""

    @abstractmethod
    def prepare(self, request: RequestT) -> PreparedT | LastEvent:
        """Turn a request into what `submit` takes, or into its answer where there is nothing to compute.

        Makes no mx arrays. Errors: ServerError.
        """

    @abstractmethod
    def submit(self, request_id: int, prepared: PreparedT) -> None:
        """Take a prepared request in; its first event comes from here or from a later turn."""

    @abstractmethod
    def cancel(self, request_id: int) -> None:
        """Forget a request, before the next turn; unknown ids are ignored."""

    @abstractmethod
    def turn(self) -> bool:
        """Do one bounded piece of work and emit what came of it; whether any work is left."""

    def rest(self, idle_s: float) -> float | None:
        """Tidy up, after `idle_s` without work; seconds after which it is to be called again, None for never.

        The first call comes with the last piece of work, and none comes while there is any.
        """
        return None

    def inspect(self) -> CacheStats:
        """How the caches are: all zeros where there are none."""
        return CacheStats()

    def clear_caches(self) -> None:
        """Empty the caches."""

    def close(self) -> None:
        """Save what is to outlive the process, within some seconds; nothing is called after it."""


AnyHandler = Handler[Any, Any]
