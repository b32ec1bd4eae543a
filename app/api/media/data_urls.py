"""Files that a request carries in itself, as base64."""

import asyncio
import base64
import re

from app.api.media.intake import Intake

_HEAD = re.compile(r"data:[^,]{0,256}?(;base64)?,", re.IGNORECASE)
# Some milliseconds of work, after which others may go on.
_PIECE = 2**20


async def read_data_url(url: str, intake: Intake) -> None:
    """Read a `data:` URL; what type it claims does not matter. Errors: InvalidRequest."""
    head = _HEAD.match(url)
    if head is None or head[1] is None:
        raise intake.refusal("is no data: URL of base64; send data:<type>;base64,<base64 of the file>")
    await read_base64(url, intake, head.end())


async def read_base64(text: str, intake: Intake, begin: int = 0) -> None:
    """Read the base64, which may have line breaks, that is in a text from `begin` on. Errors: InvalidRequest."""
    held = ""
    for start in range(begin, len(text), _PIECE):
        held += "".join(text[start : start + _PIECE].split())
        # Only whole groups of four characters; what ends in padding is the end, unless more comes after all.
        cut = len(held) if start + _PIECE >= len(text) else max(len(held) - 4, 0) // 4 * 4
        try:
            intake.add(base64.b64decode(held[:cut], validate=True))
        except ValueError:
            raise intake.refusal("is not valid base64; encode the bytes of the file") from None
        held = held[cut:]
        await asyncio.sleep(0)
