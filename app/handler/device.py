"""Where the model runs, and everything that differs from one device to another."""

import resource
import sys

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map
from mlx_lm.utils import dequantize_model
from msgspec.structs import replace

from app.core import machine
from app.core.frames import CacheStats
from app.handler.cpu_attention import use_fast_attention

# mlx_lm lowers the limit on open files when it is imported; weights in many shards and a busy disk cache need more.
_OPEN_FILES = 4096
# Of all memory, for the scores of one layer; several layers' may be held at a time.
_SCORES_SHARE = 1 / 64
_SCORE_BYTES = 4
# A client that sends one request after the other does not pay for new memory each time.
_QUIET_S = 1.0


def is_cpu() -> bool:
    """Whether MLX computes on the CPU: no Metal and no CUDA device."""
    return mx.default_device().type == mx.DeviceType.cpu


def describe() -> str:
    """The device in a word or two, for logs and the model's information."""
    name = mx.device_info().get("device_name", "unknown device")
    return f"CPU ({name})" if is_cpu() else str(name)


def memory_bytes() -> int:
    """Memory a model may use: the GPU's, or the machine's RAM."""
    # What Metal recommends; the whole memory of a CUDA device. On a CPU, MLX names neither.
    limit = mx.device_info().get("max_recommended_working_set_size") or mx.device_info().get("total_memory")
    return int(limit) if limit else machine.memory_bytes()


def max_pairs(num_heads: int) -> int | None:
    """Of a new token and one that it sees, the most in a prefill pass: where MLX keeps a score for each and every head.

    None where it does not: Metal's kernels do without.
    """
    if sys.platform == "darwin" or not num_heads:
        return None
    return int(_SCORES_SHARE * memory_bytes()) // (_SCORE_BYTES * num_heads)


def prepare_process() -> None:
    """Set this process up for a model: open files, and on a Mac memory that stays wired."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES and (hard == resource.RLIM_INFINITY or hard >= _OPEN_FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
    if sys.platform == "darwin" and (limit := mx.device_info().get("max_recommended_working_set_size")):
        mx.set_wired_limit(int(limit))


def prepare_weights(model: nn.Module) -> None:
    """Bring the weights into the form this device is fast with.

    MLX's CPU back end has fast kernels for float32 only (BLAS): 4-bit and 16-bit weights run 10 to 15 times slower
    there. Left alone where float32 weights would take more than half of the memory.
    """
    if not is_cpu() or not machine.has_room_for_float32(num_parameters(model), memory_bytes()):
        return
    dequantize_model(model)
    model.update(
        tree_map(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x, model.parameters())
    )
    mx.eval(model.parameters())
    use_fast_attention()


class MemoryGauge:
    """What MLX holds for a model, from the moment it was loaded. Any thread may ask."""

    def __init__(self) -> None:
        self._weights_bytes = mx.get_active_memory()

    @property
    def gpu_bytes(self) -> int:
        """What MLX takes of an NVIDIA GPU's memory; 0 elsewhere, where the system tells what a process takes."""
        return 0 if is_cpu() or sys.platform == "darwin" else mx.get_active_memory() + mx.get_cache_memory()

    def completed(self, stats: CacheStats) -> CacheStats:
        """With the memory that the device knows of."""
        return replace(
            stats,
            weights_bytes=self._weights_bytes,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
        )


class FreedMemory:
    """Memory that MLX holds on to after it was freed, to use it again: given back to the system in quiet times."""

    def __init__(self) -> None:
        self._is_given_back = True

    def give_back(self, idle_s: float) -> float | None:
        """Once when there was no work for a while; seconds after which to call again, None for not before the next."""
        if idle_s < _QUIET_S:
            self._is_given_back = False
            return _QUIET_S - idle_s
        if not self._is_given_back:
            self._is_given_back = True
            mx.clear_cache()
        return None


def num_parameters(model: nn.Module) -> int:
    """Weights; quantised ones count as what they stand for."""
    count = 0
    for _, module in model.named_modules():
        scales = module.get("scales") if isinstance(module, nn.Module) else None
        if scales is not None:
            count += scales.size * getattr(module, "group_size", 1)
        elif not module.children():
            count += sum(value.size for value in module.values() if isinstance(value, mx.array))
    return count
