from app.core import machine
from app.handler import device


def test_the_server_knows_without_mlx_what_its_workers_compute_on() -> None:
    assert machine.computes_on_cpu() == device.is_cpu()


def test_a_model_may_use_the_memory_of_its_device() -> None:
    if device.is_cpu():
        assert device.memory_bytes() == machine.memory_bytes()
    assert device.memory_bytes() > 2**30
