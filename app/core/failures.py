"""Errors on their way through a socket: `ServerError` to `Failed` event and back."""

import re

from app import errors
from app.core.events import Failed
from app.errors import InternalError, OutOfMemory, ServerError

# As MLX says it, which raises no MemoryError.
_NO_MEMORY = re.compile(r"(?:Unable|Attempting) to allocate")


def to_event(error: ServerError) -> Failed:
    """The event that carries `error` to the server process."""
    return Failed(type(error).__name__, error.message, error.param)


def of_exception(error: Exception) -> ServerError:
    """What is told of a fault in a worker: that memory ran out, or else nothing of what is inside."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return OutOfMemory(
            "Memory ran out while the model worked on this request; try again later, with less text or fewer requests"
            " at once."
        )
    return InternalError()


def from_event(event: Failed) -> ServerError:
    """The error an event carries; one of an unknown class becomes an InternalError."""
    match getattr(errors, event.error, None):
        case type() as cls if issubclass(cls, ServerError) and cls not in (InternalError, errors.UnsupportedField):
            return cls(event.message, param=event.param)
        case _:
            return InternalError()
