"""How a language model divides the memory that it may plan with."""

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from app.handler import device
from app.handler.lm.memory_plan import MemoryPlan, plan_memory
from app.settings import ModelSpec

GIB = 2**30
SPEC = ModelSpec()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """64 MiB of weights."""
    return nn.Linear(4096, 4096, bias=False)


def weight_bytes(model: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array))


def test_a_model_alone_plans_with_the_machine(model: nn.Module) -> None:
    whole = device.memory_bytes()
    expected = MemoryPlan(int(0.6 * (whole - weight_bytes(model))), int(0.15 * whole))
    assert plan_memory(SPEC, model, None) == expected
    # Memory that the device does not have is not to be had.
    assert plan_memory(SPEC, model, 2 * whole) == expected


@pytest.mark.parametrize("allotted", [GIB, 2 * GIB])
def test_with_others_it_plans_with_its_part(model: nn.Module, allotted: int) -> None:
    plan = plan_memory(SPEC, model, allotted)
    # What other tests have left in memory is in use, too.
    rest_bytes = allotted - max(weight_bytes(model), mx.get_active_memory())
    assert 0.55 * rest_bytes < plan.kv_bytes <= 0.65 * rest_bytes
    assert plan.kv_bytes <= 0.6 * (allotted - weight_bytes(model))
    assert 0.1 * allotted < plan.prefix_bytes <= 0.15 * allotted
    assert weight_bytes(model) + plan.kv_bytes + plan.prefix_bytes < allotted


def test_with_no_room_beside_its_weights_it_still_answers(model: nn.Module) -> None:
    plan = plan_memory(SPEC, model, weight_bytes(model))
    assert (plan.kv_bytes, plan.prefix_bytes) == (256 * 2**20, 0)


def test_what_was_set_holds_whatever_others_need(model: nn.Module) -> None:
    spec = ModelSpec(max_kv_bytes=5 * GIB, prompt_cache_bytes=3 * GIB)
    assert plan_memory(spec, model, GIB) == MemoryPlan(5 * GIB, 3 * GIB)
