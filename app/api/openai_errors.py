"""Errors as OpenAI's API shows them."""

import math
from typing import Any

import msgspec
from fastapi import Response

from app.errors import MethodNotAllowed, ServerError
from app.schemas.errors import ErrorBody

# For a route's `responses`: what every route may answer.
ERROR_DOCS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}


def error_json(error: ServerError, request_id: str) -> bytes:
    """The body of an error reply, or the data of a stream's error event."""
    details = {"message": error.message, "type": error.type, "param": error.param, "code": error.error_code}
    return msgspec.json.encode({"error": details, "request_id": request_id})


def error_response(error: ServerError, request_id: str) -> Response:
    """The reply for an error raised before any reply began."""
    return Response(error_json(error, request_id), error.status, error_headers(error), "application/json")


def error_headers(error: ServerError) -> dict[str, str]:
    """What the header of an error reply tells, in every protocol."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
