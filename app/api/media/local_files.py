"""Files of this machine, of one folder only."""

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote

from app.api.media.reference import Reference

_FILE_URL = re.compile(r"file://(?:localhost)?(?=/)", re.IGNORECASE)


def read_local_file(reference: Reference, root: Path, max_bytes: int) -> bytes:
    """The first `max_bytes` of a file that a `file://` URL or a path, which may begin at `root`, leads to.

    Blocks. Errors: InvalidRequest, the same for what lies elsewhere as for what is not there.
    """
    text, is_url = reference.text, _FILE_URL.match(reference.text)
    path = unquote(text[is_url.end() :]) if is_url else text
    try:
        # Without links and "..": what is opened is what was looked at.
        real = (root / path).resolve(strict=True)
        if not real.is_relative_to(root.resolve(strict=True)):
            raise PermissionError
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PermissionError
            return file.read(max_bytes)
    # A null byte is a ValueError, a circle of links is a RuntimeError.
    except (OSError, ValueError, RuntimeError):
        raise reference.refusal("is no file under the server's --media-root that can be read") from None
