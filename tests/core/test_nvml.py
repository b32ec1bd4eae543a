"""An NVIDIA GPU as the server process sees it, through a driver library that is compiled here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.nvml import Nvml
from tests.fixtures import fake_nvml

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="Macs have no NVIDIA GPU")

GIB = 2**30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.mark.parametrize(("visible", "factor"), [(None, 1), ("0,1", 1), ("1", 2), (" 1 ,0", 2), ("GPU-second", 2)])
def test_the_gpu_that_is_seen_first_tells_its_size(library: Path, visible: str | None, factor: int) -> None:
    fake_nvml.describe(library, 24 * GIB)
    gpu = Nvml.open(visible, str(library))
    assert gpu is not None
    assert gpu.total_bytes == factor * 24 * GIB


@pytest.mark.parametrize("visible", ["", "7", "GPU-unknown", "-1"])
def test_a_gpu_that_is_not_there_is_none(library: Path, visible: str) -> None:
    fake_nvml.describe(library, GIB)
    assert Nvml.open(visible, str(library)) is None


def test_without_a_driver_there_is_none(tmp_path: Path) -> None:
    assert Nvml.open(None, "libno-such-library.so.1") is None
    # The library is there, and the driver is not.
    assert Nvml.open(None, str(fake_nvml.build(tmp_path))) is None
    # Some other library.
    assert Nvml.open(None, "libc.so.6") is None


def test_memory_of_processes(library: Path) -> None:
    own = os.getpid()
    fake_nvml.describe(library, GIB, {1: 5, own: 300, 2: fake_nvml.UNKNOWN_BYTES, 4: 7})
    gpu = Nvml.open(None, str(library))
    assert gpu is not None
    assert [gpu.process_bytes(pid) for pid in (own, 1, 4, 99)] == [300, 5, 7, 0]
    assert gpu.process_bytes(2) == 0, "the driver does not know"
    (library.parent / "gpu.txt").unlink()
    assert (gpu.total_bytes, gpu.process_bytes(own)) == (None, 0)


def test_the_machine_counts_in_memory_of_its_gpu(library: Path) -> None:
    """In a process of its own, which finds the library where the system would, and an MLX that can use the GPU."""
    program = (
        "import os; from app.core import machine; pid = os.getpid();"
        "print(machine.models_memory_bytes(), machine.resident_bytes(pid), machine.resident_bytes(pid, 7),"
        " machine.resident_bytes(os.getppid()), machine.resident_bytes(os.getppid(), 9))"
    )
    fake_nvml.describe(library, 24 * GIB, {os.getpid(): 8})
    environment = os.environ | fake_nvml.environment(library)
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    total, own, own_reported, others, others_reported = map(int, ran.stdout.split())
    assert total == 24 * GIB
    assert own > 5 * 2**20, "what computes on no GPU takes the machine's memory"
    assert own_reported == 7, "the driver sees nothing of it, as from within a container"
    assert (others, others_reported) == (8, 9)
