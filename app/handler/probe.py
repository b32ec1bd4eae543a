"""`python -P -m app.handler.probe`: tries out what workers need, in their environment, and prints a `Probe` as JSON."""

import ctypes
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import get_args

import msgspec

from app.core.probe import Probe
from app.core.requests import Kind
from app.core.samples import SAMPLES
from app.errors import ModelLoadError
from app.handler import device
from app.handler.open import handler_class

_PACKAGES = ("mlx", "mlx-lm", "mlx-vlm", "mlx-whisper", "mlx-audio", "mflux", "transformers")


def probe() -> Probe:
    """Look at the device, at what is installed, and whether it can be imported."""
    return Probe(
        device=device.describe(),
        is_cpu=device.is_cpu(),
        memory_bytes=device.memory_bytes(),
        blas=_preloaded_blas() if sys.platform == "linux" else None,
        versions={name: found for name in _PACKAGES if (found := _version(name))},
        faults={kind: _fault(kind) for kind in get_args(Kind)},
        samples={sample.name: find_spec(sample.module) is not None for sample in SAMPLES},
    )


def _fault(kind: Kind) -> str | None:
    try:
        handler_class(kind)
    except ModelLoadError as error:
        return error.message
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _preloaded_blas() -> str | None:
    """The library whose matrix multiplication comes before that of MLX's own reference BLAS."""
    program = ctypes.CDLL(None)
    place = _Place()
    try:
        address = ctypes.cast(program.cblas_sgemm, ctypes.c_void_p)
    except AttributeError:
        return None
    return place.file.decode() if program.dladdr(address, ctypes.byref(place)) else None


class _Place(ctypes.Structure):
    """Dl_info of <dlfcn.h>: where an address lies."""

    file: bytes
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(probe()).decode() + "\n")
