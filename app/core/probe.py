"""What a process that may import MLX has found out about this machine, for one that may not."""

import msgspec

from app.core.requests import Kind


class Probe(msgspec.Struct, frozen=True):
    """`memory_bytes` are what MLX may use; `faults` say of each kind of model why it cannot be served here,
    `samples` of each sample model whether its package is installed.

    `blas` is the library that multiplies matrices on a Linux machine's CPU, where it is a fast one.
    """

    device: str
    is_cpu: bool
    memory_bytes: int
    blas: str | None
    versions: dict[str, str]
    faults: dict[Kind, str | None]
    samples: dict[str, bool]
