"""What differs between machines, as far as the server process must know it."""

import sys
from collections.abc import Mapping
from pathlib import Path

# MLX's Linux CPU build links the reference BLAS; Debian's and Ubuntu's OpenBLAS packages put a drop-in here.
_OPENBLAS = tuple(
    Path(f"/usr/lib/{triple}/openblas-{threads}/libopenblas.so.0")
    for triple in ("x86_64-linux-gnu", "aarch64-linux-gnu")
    for threads in ("pthread", "openmp", "serial")
)
# A secret of the server, not of its workers.
_SERVER_ONLY = frozenset({"API_KEY"})


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment a worker is started with, from the server's own."""
    environment = {name: value for name, value in environ.items() if name not in _SERVER_ONLY}
    # The server's log has no use for progress bars.
    environment.setdefault("TQDM_DISABLE", "1")
    # A dynamic loader variable can only be set before the process starts.
    if (library := openblas()) and "LD_PRELOAD" not in environment:
        environment["LD_PRELOAD"] = str(library)
    # OpenBLAS's threads spin for a tenth of a second when they have nothing to do, on the cores that the server's
    # process and the model's own thread need. 2^14 cycles last from one multiplication to the next; then they sleep.
    environment.setdefault("OPENBLAS_THREAD_TIMEOUT", "14")
    return environment


def openblas() -> Path | None:
    """The OpenBLAS to preload on a Linux machine without an NVIDIA GPU, when it is installed."""
    if sys.platform != "linux" or Path("/dev/nvidiactl").exists():
        return None
    return next((path for path in _OPENBLAS if path.exists()), None)
