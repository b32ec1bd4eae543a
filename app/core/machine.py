"""What differs between machines, as far as the server process must know it."""

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from app.core.nvml import Nvml, gpu_of_machine

# MLX's Linux CPU build links the reference BLAS; Debian's and Ubuntu's OpenBLAS packages put a drop-in here.
_OPENBLAS = tuple(
    Path(f"/usr/lib/{triple}/openblas-{threads}/libopenblas.so.0")
    for triple in ("x86_64-linux-gnu", "aarch64-linux-gnu")
    for threads in ("pthread", "openmp", "serial")
)
_MLX_FOR_CUDA = ("mlx-cuda-13", "mlx-cuda-12")
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
    # cuDNN's attention is made ready for every new length of prompt and cache, 40 ms each time: longer than prefilling
    # a prompt takes.
    environment.setdefault("MLX_CUDA_USE_CUDNN_SDPA", "0")
    return environment


def openblas() -> Path | None:
    """The OpenBLAS to preload on a Linux machine without an NVIDIA GPU, when it is installed."""
    if sys.platform != "linux" or not computes_on_cpu():
        return None
    return next((path for path in _OPENBLAS if path.exists()), None)


def computes_on_cpu() -> bool:
    """Whether MLX computes on the CPU here: no Mac, and no NVIDIA GPU or none that the installed MLX can use."""
    if sys.platform == "darwin":
        return False
    return not (Path("/dev/nvidiactl").exists() and _is_mlx_for_cuda())


@cache
def _is_mlx_for_cuda() -> bool:
    for package in _MLX_FOR_CUDA:
        with suppress(PackageNotFoundError):
            distribution(package)
            return True
    return False


def models_memory_bytes() -> int:
    """Memory that models are loaded into: that of an NVIDIA GPU where they are computed on one, else the machine's."""
    gpu = _gpu()
    return (gpu.total_bytes if gpu is not None else None) or memory_bytes()


def memory_bytes() -> int:
    """The machine's own memory, or what its container may use of it."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdigit() else installed


def has_room_for_float32(num_parameters: int, memory_bytes: int) -> bool:
    """Whether a model that computes on the CPU has its weights as float32: where they take half of the memory at most.

    MLX's CPU back end has fast kernels for nothing else.
    """
    return 4 * num_parameters <= memory_bytes // 2


def resident_bytes(pid: int, reported_bytes: int = 0) -> int:
    """Memory that a process takes, with what a Mac's GPU holds for it; 0 when it is gone.

    Of a process that computes on an NVIDIA GPU it is the GPU's memory: what the driver knows of, or at least
    `reported_bytes`, which is what the process says itself.
    """
    if sys.platform == "darwin":
        return _footprint_bytes(pid)
    if gpu := _gpu():
        reported_bytes = max(reported_bytes, gpu.process_bytes(pid))
    if reported_bytes:
        return reported_bytes
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _gpu() -> Nvml | None:
    """The NVIDIA GPU that models are computed on, if they are."""
    return gpu_of_machine(os.environ.get("CUDA_VISIBLE_DEVICES")) if _is_mlx_for_cuda() else None


class _Usage(ctypes.Structure):
    """struct rusage_info_v0 of <sys/resource.h> on macOS."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint64) for name in ("user", "system", "idle_wakeups", "interrupts", "pageins", "wired")),
        *((name, ctypes.c_uint64) for name in ("resident", "footprint", "began", "ended")),
    )


def _footprint_bytes(pid: int) -> int:
    usage = _Usage()
    has_failed = ctypes.CDLL(None).proc_pid_rusage(pid, 0, ctypes.byref(usage))
    return 0 if has_failed else int(usage.footprint)
