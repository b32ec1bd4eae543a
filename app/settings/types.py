"""The kinds of value that settings have: what is accepted, and what is said of the rest.

Every validator's message continues the name of the setting: "--host must be ...".
"""

import ipaddress
import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, SecretStr, TypeAdapter

ReasoningMode = Literal["separate", "inline", "strip"]
ModelType = Literal["lm", "multimodal", "vlm", "embeddings", "whisper", "image-generation", "image-edit", "tts"]

ConfigName = Literal[
    "flux-dev",
    "flux-schnell",
    "flux-krea-dev",
    "flux-kontext-dev",
    "flux-fill-dev",
    "qwen-image",
    "qwen-image-edit",
    "z-image-turbo",
    "fibo",
    "fibo-edit",
    "flux2-klein-4b",
    "flux2-klein-9b",
    "flux2-klein-4b-edit",
    "flux2-klein-9b-edit",
]

_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _size(value: object) -> object:
    """Bytes of a size such as 64MB, 64MiB or 1.5 GB; anything that is not text is passed on."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([A-Za-z]{0,3})", value.strip(), re.ASCII)
    unit = _SIZE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError("must be a size such as 64MiB, 64MB or 67108864")
    return int(float(match[1]) * unit)


@dataclass(frozen=True, slots=True)
class MemorySize:
    """So many bytes, or so many percent of a machine's memory."""

    number: float
    is_percent: bool = False

    def num_bytes(self, memory_bytes: int) -> int:
        """The bytes, on a machine that has `memory_bytes`."""
        return int(memory_bytes * self.number / 100 if self.is_percent else self.number)


def _memory_size(value: object) -> MemorySize:
    if isinstance(value, MemorySize):
        return value
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)\s*%", value.strip(), re.ASCII) if isinstance(value, str) else None
    try:
        size = MemorySize(float(match[1]), is_percent=True) if match else MemorySize(_bytes.validate_python(value))
    except ValueError:
        raise ValueError("must be a size such as 64GiB, or a share of the memory such as 75%") from None
    if size.is_percent and not 0 < size.number <= 100:
        raise ValueError("must be more than 0% and at most 100%")
    return size


def _comma_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    items = tuple(item.strip() for item in value.split(",") if item.strip())
    if not items:
        raise ValueError("must name at least one value")
    return items


def _comma_lists(value: object) -> object:
    """The same, where the items of a list may be comma lists themselves (a repeated flag)."""
    if isinstance(value, int | float):
        return [value]
    if not isinstance(value, list | tuple):
        return _comma_list(value)
    parts = [_comma_list(item) for item in cast("list[object]", value)]
    return [item for part in parts for item in (cast("tuple[str]", part) if isinstance(part, tuple) else [part])]


def named_paths(value: object) -> dict[str, str]:
    """Paths by name, of a mapping or of texts such as NAME=PATH, each of which may hold several. Errors: ValueError."""
    if isinstance(value, dict):
        pairs = [(str(name), path) for name, path in cast("dict[object, object]", value).items()]
    else:
        texts = _comma_lists(value)
        if not isinstance(texts, list | tuple):
            raise ValueError("must be NAME=PATH, or in YAML names with a path each")
        pairs = [_named_path(text) for text in cast("list[object]", texts)]
    named: dict[str, str] = {}
    for name, path in pairs:
        if not name.strip() or not isinstance(path, str) or not path.strip():
            raise ValueError("must be NAME=PATH, or in YAML names with a path each")
        if named.setdefault(name.strip(), path.strip()) != path.strip():
            raise ValueError(f"gives '{name.strip()}' two paths: give each its own name")
    return named


def _named_path(text: object) -> tuple[str, str]:
    name, _, path = text.partition("=") if isinstance(text, str) else ("", "", "")
    return name, path


def _host(value: str) -> str:
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if re.fullmatch(r"[A-Za-z0-9._-]{1,253}", bare):
        return bare
    try:
        return str(ipaddress.IPv6Address(bare))
    except ValueError:
        raise ValueError("must be a host name or an IP address, without scheme and port") from None


def _origin(value: str) -> str:
    if value in ("*", "null") or re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-.0-~]+", value):
        return value
    raise ValueError("must be * or origins such as https://chat.example.com, without a path")


def _header_safe(value: SecretStr) -> SecretStr:
    # Clients send the key in a header, which could not carry anything else: every request would be refused.
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces, and not empty")
    return value


def _existing_file(value: Path | None) -> Path | None:
    try:
        found = value is None or value.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise ValueError("must be an existing file")
    return value


def _not_a_folder(value: Path | None) -> Path | None:
    try:
        folder = value is not None and value.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        folder = True
    if folder:
        raise ValueError("must be a file")
    return value


def _existing_folder(value: Path | None) -> Path | None:
    try:
        found = value is None or value.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        found = False
    if not found:
        raise ValueError("must be an existing folder")
    return value


def _none_is_zero(value: object) -> object:
    return 0 if isinstance(value, str) and value.strip().lower() == "none" else value


def _one_of(*allowed: int) -> AfterValidator:
    *others, last = map(str, allowed)

    def check(value: int) -> int:
        if value not in allowed:
            raise ValueError(f"must be {', '.join(others)} or {last}" if others else f"must be {last}")
        return value

    return AfterValidator(check)


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


_MAX_INT = 2**31 - 1
_YEAR_S = 31_536_000

KvBits = Annotated[int, _one_of(4, 6, 8)]
WeightBits = Annotated[int, _one_of(3, 4, 5, 6, 8)]
KvStart = Annotated[int, _one_of(0)]
KvGroupSize = Annotated[int, _one_of(32, 64, 128)]
Text = Annotated[str, Field(min_length=1)]
ModelPath = Annotated[Text, AfterValidator(os.path.expanduser)]
Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
CountOrZero = Annotated[int, Field(ge=0, le=_MAX_INT)]
LoraScale = Annotated[float, Field(ge=-10, le=10)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seconds = Annotated[float, Field(gt=0, le=_YEAR_S)]
SecondsOrZero = Annotated[float, Field(ge=0, le=_YEAR_S)]
SecondsOrNone = Annotated[SecondsOrZero, BeforeValidator(_none_is_zero)]
NumBytes = Annotated[int, BeforeValidator(_size), Field(ge=1, le=2**40)]
_bytes: TypeAdapter[int] = TypeAdapter(NumBytes)
MemoryBudget = Annotated[InstanceOf[MemorySize], BeforeValidator(_memory_size)]
NumBytesOrZero = Annotated[int, BeforeValidator(_size), Field(ge=0, le=2**40)]
Host = Annotated[Text, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
# These are written around their whole field, so that the field still shows its plain type (see app.settings.knobs).
api_keys = BeforeValidator(_comma_list)
comma_lists = BeforeValidator(_comma_lists)
existing_file = AfterValidator(_existing_file)
existing_folder = AfterValidator(_existing_folder)
not_a_folder = AfterValidator(_not_a_folder)
Origin = Annotated[str, AfterValidator(_origin)]
ApiKey = Annotated[SecretStr, AfterValidator(_header_safe)]
