"""Where a server is, and the bytes of a request to it."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class CallFailed(Exception):
    """A request that gave no figures; the message is one sentence."""


class Refused(CallFailed):
    """A reply with another status than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status}: {reason}" if reason else f"the server answered {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible API: `path` is what all its routes begin with, usually `/v1`."""

    host: str
    port: int
    is_tls: bool
    path: str
    api_key: str = field(default="", repr=False)
    timeout_s: float = 120.0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self.is_tls else 'http'}://{self._authority}{self.path}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def request(self, method: str, route: str, body: bytes = b"") -> bytes:
        """An HTTP/1.1 request on a connection of its own."""
        lines = [
            f"{method} {self.path}{route} HTTP/1.1",
            f"Host: {self._authority}",
            "Accept: text/event-stream, application/json",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join([*lines, "", ""]).encode() + body


def endpoint(base_url: str, api_key: str = "", timeout_s: float = 120.0) -> Endpoint:
    """The endpoint at `http://host:port`, or at `…/v1` as OpenAI's clients take it. Errors: ValueError."""
    url = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
    if url.scheme not in _PORTS or not url.hostname or url.query or re.search(r"\s", base_url):
        raise ValueError(f"{base_url} is not a base URL; write it as http://127.0.0.1:8000/v1")
    if not api_key.isascii() or not (api_key.isprintable() and " " not in api_key):
        raise ValueError("the API key has a character that cannot be sent in a header")
    path = url.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return Endpoint(url.hostname, url.port or _PORTS[url.scheme], url.scheme == "https", path, api_key, timeout_s)
