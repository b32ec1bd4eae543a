"""What a route finds around its request."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from starlette.types import Message

from app.api.context import RequestContext
from app.api.media.addresses import Address
from app.api.media.reader import MediaLimits, MediaReader
from app.api.media.reference import Reference
from app.api.media.remote import RemoteFiles
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.errors import ClientGone
from app.settings import ModelSpec
from tests.fixtures.web_server import serving


async def test_nothing_is_fetched_for_a_client_that_has_gone(tmp_path: Path) -> None:
    async def here(_host: str, _port: int) -> list[Address]:
        return [ip_address("127.0.0.1")]

    limits = MediaLimits(max_count=1, max_bytes=1000, max_total_bytes=1000, timeout_s=60)
    reader = MediaReader(limits, remote=RemoteFiles(here, lambda _: True))
    async with serving({"/never": None}) as web:

        async def hang_up() -> Message:
            await web.is_asked.wait()
            return {"type": "http.disconnect"}

        registry = Registry((ModelSpec(),), tmp_path)
        context = RequestContext(registry, RequestRecord("id", "client"), 1, reader, hang_up)
        with pytest.raises(ClientGone):
            await context.read_media([Reference("image", f"http://files.test:{web.port}/never", "place")])
