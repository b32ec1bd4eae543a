"""Media in a message on the wire.

What a client says of a file's type, as in `format`, is not declared: what the file is, its bytes tell.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from app.schemas.base import WireModel

ImageDetail = Literal["auto", "low", "high", "original"]


class MediaUrl(WireModel):
    """Where a file is, and how closely a picture is to be looked at."""

    url: str
    detail: ImageDetail | None = None


def _with_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


# Some clients send the URL alone.
UrlField = Annotated[MediaUrl, BeforeValidator(_with_url, json_schema_input_type=MediaUrl | str)]


class InputAudio(WireModel):
    """A recording as base64."""

    data: str
