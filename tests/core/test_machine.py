import os
import subprocess
import sys

from app.core import machine

MIB = 2**20


def test_memory_of_a_process_is_what_it_takes() -> None:
    program = f"import sys; held = b'x' * {100 * MIB}; print('held', flush=True); sys.stdin.read()"
    own = machine.resident_bytes(os.getpid())
    assert own > 5 * MIB
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert 100 * MIB < machine.resident_bytes(process.pid) < 200 * MIB
    assert machine.resident_bytes(process.pid) == 0


def test_memory_of_the_machine_is_more_than_that_of_a_process() -> None:
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.resident_bytes(os.getpid()) < machine.memory_bytes() <= installed


def test_float32_weights_take_half_of_the_memory_at_most() -> None:
    assert machine.has_room_for_float32(100, 800)
    assert not machine.has_room_for_float32(101, 800)
