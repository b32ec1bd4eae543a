"""What a route finds around its request."""

from dataclasses import dataclass

from fastapi import Request

from app.core.record import RequestRecord
from app.core.registry import Registry


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The models, the request's own record, and the limits of its reply."""

    registry: Registry
    record: RequestRecord
    heartbeat_s: float


def context_of(request: Request) -> RequestContext:
    """The context of a request: the application's state and what the tracking middleware left."""
    state = request.app.state
    return RequestContext(state.registry, request.scope["state"]["record"], state.settings.heartbeat_interval)
