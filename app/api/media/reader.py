"""The one place where what a request refers to becomes bytes: what it carries itself, files, URLs."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.api.media.data_urls import read_base64, read_data_url
from app.api.media.file_types import complaint
from app.api.media.intake import Allowance, Intake
from app.api.media.local_files import read_local_file
from app.api.media.reference import Reference
from app.settings import Settings

if TYPE_CHECKING:
    from app.api.media.remote import RemoteFiles

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a request may ask for: how many media, how large each and all, and how long getting them may take."""

    max_count: int
    max_bytes: int
    max_total_bytes: int
    timeout_s: float


class MediaReader:
    """Reads media; without a `root` no files of this machine, without `remote` nothing from elsewhere."""

    def __init__(self, limits: MediaLimits, root: Path | None = None, remote: "RemoteFiles | None" = None) -> None:
        self._limits = limits
        self._root = root
        self._remote = remote

    async def read(self, references: list[Reference]) -> Mapping[Reference, bytes]:
        """The files that a request refers to, each of the kind that it is to be. Errors: InvalidRequest."""
        limits = self._limits
        if len(references) > limits.max_count:
            raise references[limits.max_count].refusal(
                f"is one too many: a request has {limits.max_count} media at most (--max-media)"
            )
        wanted = list(dict.fromkeys(references))
        allowance = Allowance(limits.max_total_bytes, limits.max_total_bytes)
        tasks = [asyncio.create_task(self._file(one, allowance)) for one in wanted]
        try:
            return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
        finally:
            # When one cannot be read, or the client has gone, the others are not needed.
            for task in tasks:
                task.cancel()

    async def _file(self, reference: Reference, allowance: Allowance) -> bytes:
        intake = Intake(reference, self._limits.max_bytes, allowance)
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._fill(intake)
        except TimeoutError:
            raise reference.refusal(
                f"was not there within {self._limits.timeout_s:g} s (--media-timeout); send a data: URL"
            ) from None
        data = bytes(intake.data)
        if (what := complaint(reference.kind, data)) is not None:
            raise reference.refusal(what)
        return data

    async def _fill(self, intake: Intake) -> None:
        reference = intake.reference
        if reference.is_base64:
            await read_base64(reference.text, intake)
            return
        scheme = _SCHEME.match(reference.text)
        match scheme[0].lower() if scheme else "file":
            case "data":
                await read_data_url(reference.text, intake)
            case "http" | "https":
                if self._remote is None:
                    raise reference.refusal(
                        "is a URL, which this server does not fetch; send a data: URL, or start the server with"
                        " --allow-remote-media"
                    )
                await self._remote.fetch(intake)
            case "file":
                if self._root is None:
                    raise reference.refusal(
                        "is no data: or https URL; files of its machine the server reads when it is started with"
                        " --media-root"
                    )
                intake.add(await asyncio.to_thread(read_local_file, reference, self._root, intake.max_bytes + 1))
            case _:
                raise reference.refusal("is no data:, https: or http: URL; send one of these")


def open_media(settings: Settings) -> MediaReader:
    """The reader of a server."""
    remote = None
    if settings.allow_remote_media:
        # A tenth of a second, and memory, that a server which fetches nothing saves.
        from app.api.media.remote import RemoteFiles

        remote = RemoteFiles()
    limits = MediaLimits(
        max_count=settings.max_media,
        max_bytes=settings.max_media_bytes,
        # What is fetched counts as if it had been sent.
        max_total_bytes=settings.max_body_bytes,
        timeout_s=settings.media_timeout,
    )
    return MediaReader(limits, settings.media_root, remote)
