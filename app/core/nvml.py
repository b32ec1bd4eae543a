"""An NVIDIA GPU's memory, read from the driver's management library: the server process may not name MLX.

Source: https://docs.nvidia.com/deploy/nvml-api
"""

import ctypes
from functools import cache

_LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
# Rounds of asking while processes come.
_NUM_TRIES = 3
_MOST_PROCESSES = 4096


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of version 2 and later; `bytes` is all ones where the driver does not know it."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


_UNKNOWN_BYTES = 2**64 - 1


class Nvml:
    """The GPU that MLX computes on: the first that `CUDA_VISIBLE_DEVICES` names. Any thread may ask."""

    def __init__(self, library: ctypes.CDLL, device: ctypes.c_void_p) -> None:
        self._library = library
        self._device = device

    @classmethod
    def open(cls, visible: str | None = None, library: str = _LIBRARY) -> "Nvml | None":
        """None where there is no driver, or none of this kind; `visible` is the value of `CUDA_VISIBLE_DEVICES`."""
        first = ("0" if visible is None else visible).split(",")[0].strip()
        device = ctypes.c_void_p()
        try:
            nvml = ctypes.CDLL(library)
            # An empty list: no GPU is to be seen.
            if nvml.nvmlInit_v2() != _SUCCESS or not first:
                return None
            if first.isdigit():
                found = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(device))
            else:
                found = nvml.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(device))
        except (OSError, AttributeError):
            return None
        return cls(nvml, device) if found == _SUCCESS else None

    @property
    def total_bytes(self) -> int | None:
        """Memory of the GPU; None where the driver does not tell."""
        memory = _Memory()
        try:
            answer = self._library.nvmlDeviceGetMemoryInfo(self._device, ctypes.byref(memory))
        except AttributeError:
            return None
        return int(memory.total) or None if answer == _SUCCESS else None

    def process_bytes(self, pid: int) -> int:
        """GPU memory that a process takes; 0 where the driver does not see it, as from within a container."""
        count = ctypes.c_uint(0)
        try:
            ask = self._library.nvmlDeviceGetComputeRunningProcesses_v3
        except AttributeError:
            return 0
        for _ in range(_NUM_TRIES):
            # The first answer is how many there are; some may come meanwhile.
            room = min(count.value, _MOST_PROCESSES)
            processes = (_Process * room)()
            count = ctypes.c_uint(room)
            if ask(self._device, ctypes.byref(count), processes) == _SUCCESS:
                return sum(
                    int(one.bytes) for one in processes[: count.value] if one.pid == pid and one.bytes != _UNKNOWN_BYTES
                )
        return 0


@cache
def gpu_of_machine(visible: str | None) -> Nvml | None:
    """The GPU of this machine, looked for once: the driver takes its time to be opened."""
    return Nvml.open(visible)
