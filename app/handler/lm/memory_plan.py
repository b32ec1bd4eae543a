"""How a language model divides its memory: between the KV caches of running requests and the prefixes it keeps."""

from dataclasses import dataclass

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx.utils import tree_flatten

from app.core.room import size_text
from app.handler import device
from app.settings import ModelSpec

# Where the settings say nothing: of the memory that the weights leave, and of all memory.
_KV_SHARE = 0.6
_PREFIX_SHARE = 0.15
# Where others are to have the rest, no more of what the weights leave: with the above it leaves room to compute.
_PREFIX_SHARE_OF_REST = 0.25
# Enough to answer at all, where little was known of the model when its memory was allotted.
_LEAST_KV_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The most bytes that each kind of cache may take."""

    kv_bytes: int
    prefix_bytes: int


def plan_memory(spec: ModelSpec, model: nn.Module, allotted_bytes: int | None) -> MemoryPlan:
    """The plan for a model whose weights are loaded; None for one that has the machine to itself."""
    whole_bytes = device.memory_bytes()
    arrays = [array for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]
    weight_bytes = sum(array.nbytes for array in arrays)
    kv_bytes = int(_KV_SHARE * max(0, whole_bytes - weight_bytes))
    prefix_bytes = int(_PREFIX_SHARE * whole_bytes)
    if allotted_bytes is not None and allotted_bytes < whole_bytes:
        # With what else was loaded: a draft model, an adapter.
        rest_bytes = max(0, allotted_bytes - max(weight_bytes, mx.get_active_memory()))
        kv_bytes = min(kv_bytes, max(int(_KV_SHARE * rest_bytes), _LEAST_KV_BYTES))
        prefix_bytes = int(min(_PREFIX_SHARE * allotted_bytes, _PREFIX_SHARE_OF_REST * rest_bytes))
    plan = MemoryPlan(
        kv_bytes if spec.max_kv_bytes is None else spec.max_kv_bytes,
        prefix_bytes if spec.prompt_cache_bytes is None else spec.prompt_cache_bytes,
    )
    caches = f"{size_text(plan.kv_bytes)} for KV caches, {size_text(plan.prefix_bytes)} for prompts that are kept"
    logger.info("memory: {} of weights; at most {}", size_text(weight_bytes), caches)
    return plan
