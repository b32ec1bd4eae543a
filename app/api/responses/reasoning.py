"""What a model thought, as an opaque string that a client brings back."""

import base64
import binascii
import zlib

_MARK = "mlx1."
# What is read of one: a client's string may unpack to any size.
_MAX_BYTES = 16 * 2**20


def sealed(text: str) -> str:
    """The string for `encrypted_content`. It is no secret: what the client was shown it may read."""
    return _MARK + base64.urlsafe_b64encode(zlib.compress(text.encode("utf-8"))).decode("ascii")


def unsealed(string: str) -> str | None:
    """The text again; None for what is not from here, as another server's is."""
    if not string.startswith(_MARK):
        return None
    try:
        packed = base64.urlsafe_b64decode(string.removeprefix(_MARK))
        return zlib.decompressobj().decompress(packed, _MAX_BYTES).decode("utf-8")
    except (binascii.Error, zlib.error, ValueError):
        return None
