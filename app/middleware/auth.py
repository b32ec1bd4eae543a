"""API keys: `Authorization: Bearer KEY` as OpenAI's clients send it, or `x-api-key: KEY` as Anthropic's do."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Unauthorized

# Supervisors ask these without a key, and they tell nothing of value.
_OPEN_PATHS = frozenset(
    {"/health", "/health/live", "/health/ready", "/v1/health", "/v1/health/live", "/v1/health/ready"}
)
# Behind each name there, which nobody can guess, is an image that a browser fetches without a key.
_OPEN_FOLDER = "/v1/images/files/"


class AuthMiddleware:
    """Refuses requests without one of `keys`; with no keys configured, lets everybody in."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and not _is_open(scope["path"]):
            digest = _digest(_given_key(Headers(scope=scope)))
            # A list: every key is compared, and in constant time, so that the time taken tells nothing.
            matches = [hmac.compare_digest(digest, known) for known in self._digests]
            if not any(matches):
                raise Unauthorized(
                    "A valid API key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
                )
            # Clients behind one address are told apart by their keys.
            scope["state"]["record"].client = digest.hex()[:12]
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    """Equal lengths for `compare_digest`, whatever the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
