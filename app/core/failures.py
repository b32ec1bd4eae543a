"""Errors on their way through a socket: `ServerError` to `Failed` event and back."""

from app import errors
from app.core.events import Failed
from app.errors import InternalError, ServerError


def to_event(error: ServerError) -> Failed:
    """The event that carries `error` to the server process."""
    return Failed(type(error).__name__, error.message, error.param)


def from_event(event: Failed) -> ServerError:
    """The error an event carries; one of an unknown class becomes an InternalError."""
    match getattr(errors, event.error, None):
        case type() as cls if issubclass(cls, ServerError) and cls not in (InternalError, errors.UnsupportedField):
            return cls(event.message, param=event.param)
        case _:
            return InternalError()
