"""Files on the internet, fetched from public addresses only.

A request may name any URL, and this machine reaches more than its author does: its own services, its network, its
cloud's metadata. So names are resolved here, every address is looked at, and the connection is made to just that
address: what the name means a moment later does not matter. Each redirect is looked at in the same way.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx

from app import __version__
from app.api.media.addresses import Address, Resolve, is_elsewhere, resolve
from app.api.media.intake import Intake

_MAX_REDIRECTS = 3
_MAX_AT_ONCE = 16
_PORTS = {"http": 80, "https": 443}
_STEP_TIMEOUT = httpx.Timeout(10.0).as_dict()


class RemoteFiles:
    """Fetches files; addresses are found by `resolver` and used where they satisfy `is_allowed`.

    Owned by the event loop's thread.
    """

    def __init__(
        self,
        resolver: Resolve = resolve,
        is_allowed: Callable[[Address], bool] = is_elsewhere,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolve = resolver
        self._is_allowed = is_allowed
        self._tls = tls or httpx.create_ssl_context()
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)

    async def fetch(self, intake: Intake) -> None:
        """Fetch what `intake` refers to into it. Errors: InvalidRequest."""
        try:
            async with self._slots:
                await self._follow(httpx.URL(intake.reference.text), intake)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise intake.refusal(f"could not be fetched ({type(error).__name__}); send a data: URL") from None

    async def _follow(self, url: httpx.URL, intake: Intake) -> None:
        for _ in range(1 + _MAX_REDIRECTS):
            async with self._opened(url, intake) as response:
                if not response.has_redirect_location:
                    await _read(response, intake)
                    return
                url = url.join(response.headers["location"])
        raise intake.refusal(f"is redirected more than {_MAX_REDIRECTS} times; send the URL that this ends at")

    @asynccontextmanager
    async def _opened(self, url: httpx.URL, intake: Intake) -> AsyncGenerator[httpx.Response]:
        """The answer of the first of a host's addresses that can be connected to."""
        *others, last = await self._addresses(url, intake)
        # No client: it would keep cookies, use proxies of the environment, follow redirects by itself. And a transport
        # for each request: its connection was made for one name, and other names may have the same address.
        async with httpx.AsyncHTTPTransport(verify=self._tls) as transport:
            for address in others:
                try:
                    response = await transport.handle_async_request(_request(url, address))
                    break
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    pass
            else:
                response = await transport.handle_async_request(_request(url, last))
            try:
                yield response
            finally:
                await response.aclose()

    async def _addresses(self, url: httpx.URL, intake: Intake) -> list[Address]:
        host = url.raw_host.decode("ascii")
        if url.scheme not in _PORTS or not host:
            raise intake.refusal("leads to no http or https URL; send a data: URL")
        if url.userinfo:
            raise intake.refusal("has a user name or password in its URL; send a data: URL")
        try:
            found = await self._resolve(host, url.port or _PORTS[url.scheme])
        # A name that is too long for DNS is a UnicodeError.
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise intake.refusal("names a host that cannot be found; check the URL")
        # One that is not public among others is how a name is made to change its meaning.
        if not all(map(self._is_allowed, found)):
            raise intake.refusal("leads to an address that is not public or this machine's own; send a data: URL")
        return found


def _request(url: httpx.URL, address: Address) -> httpx.Request:
    """A request to an address; the certificate is still to be the host's."""
    host = url.raw_host.decode("ascii")
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Accept": "*/*",
        # What is compressed could be any size when it is not.
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": f"mlx-openai-server/{__version__}",
    }
    extensions = {"sni_hostname": host, "timeout": _STEP_TIMEOUT}
    return httpx.Request("GET", url.copy_with(host=str(address)), headers=headers, extensions=extensions)


async def _read(response: httpx.Response, intake: Intake) -> None:
    if response.status_code != 200:
        raise intake.refusal(f"could not be fetched: its server answered {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise intake.refusal("is sent compressed by its server though this was not asked for; send a data: URL")
    length = response.headers.get("content-length", "")
    intake.expect(int(length) if length.isdecimal() else 0)
    async for piece in response.aiter_raw():
        intake.add(piece)
