"""One HTTP request, as cheap for the client as can be: while a reply arrives it is only kept, with the times.

What it says is read when the measurement is over, because client, server and model share the machine's cores.
"""

import asyncio
import time
from typing import cast

import httptools

from app.bench.endpoint import CallFailed, Endpoint


class Call(asyncio.Protocol):
    """A request and what has come back. Owned by the event loop's thread."""

    def __init__(self, request: bytes, timeout_s: float) -> None:
        self.started_s = time.perf_counter()
        self.status = 0
        self.pieces: list[tuple[float, bytes]] = []
        self.is_over = False
        self._num_arrivals = 0
        self._request = request
        self._timeout_s = timeout_s
        self._parser = httptools.HttpResponseParser(self)
        self._now = self.started_s
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    @property
    def body(self) -> bytes:
        """All that has come so far."""
        return b"".join(piece for _, piece in self.pieces)

    async def wait(self, num_arrivals: int | None = None) -> None:
        """Wait until something of the body has come so many times, else for the end, which may be first.

        Errors: CallFailed when the connection breaks or the time is over.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self.is_over and (num_arrivals is None or self._num_arrivals < num_arrivals):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self.hang_up()
            raise CallFailed(f"no end after {self._timeout_s:g} s") from None
        if self._failure is not None:
            raise CallFailed(f"the connection broke: {self._failure or type(self._failure).__name__}")
        if self.is_over and not self.status:
            raise CallFailed("the server closed the connection without an answer")

    def hang_up(self) -> None:
        """Close the connection, as a client does that has enough."""
        self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        if self.is_over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(error)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def on_headers_complete(self) -> None:
        """Of httptools: the status is known."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Of httptools: a piece of the body, without the framing of a chunked transfer."""
        self._num_arrivals += not self.pieces or self.pieces[-1][0] < self._now
        self.pieces.append((self._now, body))

    def on_message_complete(self) -> None:
        """Of httptools: the reply's end, whether or not the server closes the connection."""
        self._end()

    def _end(self, failure: Exception | None = None) -> None:
        if not self.is_over:
            self.is_over = True
            self._failure = failure
        self._news.set()
        if self._transport is not None:
            self._transport.close()


async def open_call(to: Endpoint, method: str, route: str, body: bytes = b"") -> Call:
    """Connect and send; the time counts from before the connection. Errors: CallFailed."""
    call = Call(to.request(method, route, body), to.timeout_s)
    try:
        async with asyncio.timeout(to.timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: call, to.host, to.port, ssl=to.is_tls or None)
    except TimeoutError:
        raise CallFailed(f"no connection to {to.url} within {to.timeout_s:g} s") from None
    except OSError as error:
        raise CallFailed(f"no connection to {to.url}: {error.strerror or error}") from None
    return call
