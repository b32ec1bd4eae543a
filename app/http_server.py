"""Uvicorn, with this server's way of ending: turn away who waits, give who runs some time, then say so and end."""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from app.application import create_app
from app.core.registry import Registry
from app.core.store import Store
from app.settings import Settings

if TYPE_CHECKING:
    from app.core.traces import Traces

# Time to write the last error events and to end the workers, after the running requests have had theirs.
_EXIT_GRACE_S = 5


class HttpServer(uvicorn.Server):
    """Serves one registry. Owned by the main thread."""

    def __init__(self, settings: Settings, registry: Registry, store: Store, traces: "Traces | None" = None) -> None:
        self._registry = registry
        self._shutdown_timeout_s = settings.shutdown_timeout
        self._load_watch: asyncio.Task[None] | None = None
        self.has_failed = False
        super().__init__(
            uvicorn.Config(
                create_app(settings, registry, store, traces),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                timeout_graceful_shutdown=int(settings.shutdown_timeout) + _EXIT_GRACE_S,
            )
        )

    def run_until_stopped(self, listener: socket.socket) -> int:
        """Serve on `listener` until a signal comes or nothing can be loaded; gives the exit status."""
        with _signals_end_quietly():
            self.run(sockets=[listener])
        return 1 if self.has_failed else 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and watch the loading from then on."""
        await super().startup(sockets)
        self._load_watch = asyncio.create_task(self._stop_if_nothing_loads())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop admitting; requests that still run after the shutdown timeout are ended with an error."""
        self._registry.drain(self._shutdown_timeout_s)
        await super().shutdown(sockets)

    async def _stop_if_nothing_loads(self) -> None:
        """A server without a single model is of no use: its log has said why."""
        if not await self._registry.wait_until_loaded():
            self.has_failed = True
            self.should_exit = True


@contextmanager
def _signals_end_quietly() -> Generator[None]:
    """Uvicorn raises the signals it caught again when it is done: then, and before it listens, they mean the end."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as end:
        if end.code != 0:
            raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
