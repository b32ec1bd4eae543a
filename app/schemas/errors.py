"""Errors on the wire, as OpenAI's API has them."""

from pydantic import BaseModel


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every reply with a status of 400 or above; `request_id` is the reply's X-Request-ID."""

    error: ErrorDetails
    request_id: str
