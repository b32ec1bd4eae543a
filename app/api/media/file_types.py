"""What a file is, seen from how it begins: what somebody calls it counts for nothing."""

import re

from app.core.conversation import MediaKind

# The containers of films may hold sound alone. Of an ISO file the type of the first box tells, of RIFF the form.
_ISO = rb".{4}(?:ftyp|moov|mdat|wide|free|skip)"
_MATROSKA = rb"\x1a\x45\xdf\xa3"
_BEGINNINGS: dict[MediaKind, re.Pattern[bytes]] = {
    "image": re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM", re.DOTALL),
    "video": re.compile(_ISO + rb"|" + _MATROSKA + rb"|RIFF.{4}AVI |OggS|\x00\x00\x01[\xb3\xba]", re.DOTALL),
    "audio": re.compile(
        # An MP3 or AAC file without tags begins with a frame: bits of ones, then a version and a layer.
        rb"RIFF.{4}WAVE|ID3|fLaC|OggS|FORM.{4}AIF[FC]|\xff[\xe2\xe3\xf0-\xf5\xf8-\xfd]|" + _ISO + rb"|" + _MATROSKA,
        re.DOTALL,
    ),
}
_NAMES: dict[MediaKind, str] = {
    "image": "no image that can be read; send PNG, JPEG, WebP, GIF or BMP",
    "video": "no film that can be read; send MP4, MOV, WebM, Matroska, AVI, Ogg or MPEG",
    "audio": "no sound that can be read; send WAV, MP3, AAC, FLAC, Ogg, AIFF, MP4 or WebM",
}


def complaint(kind: MediaKind, data: bytes) -> str | None:
    """Why a file is none of that kind, or None."""
    if not data:
        return "is empty; send the bytes of a file"
    return None if _BEGINNINGS[kind].match(data) else f"is {_NAMES[kind]}"
