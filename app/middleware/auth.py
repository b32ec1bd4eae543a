"""API keys: `Authorization: Bearer KEY` as OpenAI's clients send it, or `x-api-key: KEY` as Anthropic's do."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.record import RequestRecord
from app.errors import Forbidden, Unauthorized
from app.settings import AccessKey

# Supervisors ask these without a key, and they tell nothing of value.
_OPEN_PATHS = frozenset(
    {"/health", "/health/live", "/health/ready", "/v1/health", "/v1/health/live", "/v1/health/ready"}
)
# Behind each name there, which nobody can guess, is an image that a browser fetches without a key.
_OPEN_FOLDER = "/v1/images/files/"
# What changes the server for everybody; without the /v1 that each of these paths may begin with.
_ADMIN_ROUTES = frozenset({("DELETE", "/cache"), ("POST", "/models/load"), ("POST", "/models/unload")})
_ADMIN_FOLDER = ("DELETE", "/models/")


class AuthMiddleware:
    """Refuses requests without one of `keys`; with no keys configured, lets everybody in.

    Where a key is an admin's, only such keys may change the server. Raises Unauthorized, Forbidden.
    """

    def __init__(self, app: ASGIApp, keys: tuple[AccessKey, ...], open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._open_paths = _OPEN_PATHS | open_paths
        self._keys = [(_digest(key.key.get_secret_value()), key) for key in keys]
        self._has_admins = any(key.admin for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and not self._is_open(scope["path"]):
            digest = _digest(_given_key(Headers(scope=scope)))
            # A list: every key is compared, and in constant time, so that the time taken tells nothing.
            matches = [key for known, key in self._keys if hmac.compare_digest(digest, known)]
            if not matches:
                raise Unauthorized(
                    "A valid API key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
                )
            record: RequestRecord = scope["state"]["record"]
            record.key_name = matches[0].name
            # Clients behind one address are told apart by their keys.
            record.client = digest.hex()[:12]
            if self._has_admins and not matches[0].admin and _is_for_admins(scope["method"], scope["path"]):
                raise Forbidden(f"The key '{matches[0].name}' may not do this: it takes the key of an admin.")
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(_OPEN_FOLDER)


def _is_for_admins(method: str, path: str) -> bool:
    bare = path.removeprefix("/v1")
    return (method, bare) in _ADMIN_ROUTES or (method == _ADMIN_FOLDER[0] and bare.startswith(_ADMIN_FOLDER[1]))


def _given_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    """Equal lengths for `compare_digest`, whatever the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
