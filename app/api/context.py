"""What a route finds around its request."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Receive

from app.api.media.reader import MediaReader
from app.api.media.reference import Reference
from app.api.replies import while_connected
from app.core.metrics import Metrics
from app.core.record import RequestRecord
from app.core.registry import Registry


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The models, the request's own record, the limits of its reply, where its media are read, and its connection."""

    registry: Registry
    record: RequestRecord
    heartbeat_s: float
    media: MediaReader
    receive: Receive

    async def read_media(self, references: list[Reference]) -> Mapping[Reference, bytes]:
        """See `MediaReader.read`. Errors: also ClientGone, when the client hangs up meanwhile."""
        async with while_connected(self.receive):
            return await self.media.read(references)


def context_of(request: Request) -> RequestContext:
    """The context of a request: the application's state and what the tracking middleware left."""
    state = request.app.state
    record, heartbeat_s = request.scope["state"]["record"], state.settings.heartbeat_interval
    return RequestContext(state.registry, record, heartbeat_s, state.media, request.receive)


def metrics_of(request: Request) -> Metrics:
    """What the server has measured."""
    return request.app.state.metrics
