"""Errors as Anthropic's API shows them."""

from typing import Any

import msgspec
from fastapi import Response

from app.api.openai_errors import error_headers
from app.errors import ContextLengthExceeded, ServerError
from app.schemas.messages_replies import AnthropicErrorBody

# For a route's `responses`: what every route may answer.
ERROR_DOCS: dict[int | str, dict[str, Any]] = {
    status: {"model": AnthropicErrorBody} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_anthropic(path: str) -> bool:
    """Whether a path, of a route or of none, is answered as Anthropic would."""
    return f"{path}/".startswith(("/v1/messages/", "/anthropic/"))


def error_json(error: ServerError, request_id: str) -> bytes:
    """The body of an error reply, or the data of a stream's error event."""
    # Claude Code and others shorten the conversation by themselves when they read these words.
    words = "prompt is too long: " if isinstance(error, ContextLengthExceeded) else ""
    details = {"type": _TYPES.get(error.status, "api_error"), "message": words + error.message}
    return msgspec.json.encode({"type": "error", "error": details, "request_id": request_id})


def error_response(error: ServerError, request_id: str) -> Response:
    """The reply for an error raised before any reply began."""
    return Response(error_json(error, request_id), error.status, error_headers(error), "application/json")
