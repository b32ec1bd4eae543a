"""Media that clients upload: checked before they are decoded, and decoded only as far as they are sound.

Runs in the worker's prepare thread: Pillow only, no mx arrays.
"""

import io
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import InvalidRequest

# What Pillow may try to read a file as; its other formats are rare, and some of them run programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large an uploaded image may be: as a file, and in pixels once it is decoded."""

    max_pixels: int
    max_bytes: int = 50 * 2**20


def read_image(data: bytes, limits: ImageLimits, param: str) -> Image.Image:
    """The image in a file, upright: its first frame if it moves, its EXIF orientation applied, its colours as stored.

    `param` is how the client calls it. Errors: InvalidRequest, before anything is decoded where the header says enough.
    """
    if not data:
        raise _refusal(param, "is empty; send the image's bytes")
    if len(data) > limits.max_bytes:
        raise _refusal(param, f"has {len(data)} bytes, and {limits.max_bytes} are the limit; send a smaller one")
    try:
        # Only the header is read here.
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(param, limits) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _refusal(param, "is no image that can be read; send PNG, JPEG, WebP, GIF or BMP") from error
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(param, limits, image.size)
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    # Pillow's decoders raise all of these for files that are cut off or damaged.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, MemoryError) as error:
        raise _refusal(param, "is damaged or cut off; send the whole file") from error


def _too_many_pixels(param: str, limits: ImageLimits, size: tuple[int, int] | None = None) -> InvalidRequest:
    found = f"{size[0]}x{size[1]} pixels" if size else "too many pixels"
    return _refusal(param, f"has {found}, and {limits.max_pixels} are the limit (--max-input-pixels); scale it down")


def _refusal(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {what}.", param=param)
