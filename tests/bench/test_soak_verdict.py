"""How a soak looks at the server's processes, and what it says in the end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.bench.endpoint import CallFailed
from bench.soak.clients import Tally
from bench.soak.verdict import Load, Soak, as_json, as_line, as_text
from bench.soak.vitals import Vitals, clock_s, cpu_s, look, slope

MIB = 1 << 20


def soak(worker_mib: Callable[[float], float], seconds: int = 600, **last: int) -> Soak:
    """A run without requests, whose worker has so much memory at each second."""
    samples = [Vitals(1000.0 + at, 7, 50 * MIB, int(worker_mib(at) * MIB), 20, 8) for at in range(0, seconds + 1, 10)]
    return Soak(Load(10, 4, 1, 1), Tally(), [*samples[:-1], replace(samples[-1], **last)])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (soak(lambda _: 200), None),
        (soak(lambda at: 200 + min(at, 250)), None),
        (soak(lambda at: 200 + (at / 10 if at % 20 else 0)), None),
        (soak(lambda at: 200 + at / 10), "the worker grows by 6.00 MiB a minute"),
        (soak(lambda at: 200 + at / 10, seconds=100), None),
        (soak(lambda _: 200, worker_pid=8), "another worker"),
        (soak(lambda _: 200, num_worker_files=30), "the worker has 30 files open, 8 at the start"),
        (soak(lambda _: 200, num_server_files=24), None),
    ],
)
def test_leaks_are_told_from_settling(made: Soak, says: str | None) -> None:
    assert len(made.all_faults) == (says is not None)
    assert says is None or says in made.all_faults[0]
    assert ("FAULT" in as_text(made)) == (says is not None)


def test_a_run_is_told_as_a_line_a_table_and_json() -> None:
    made = soak(lambda at: 200 + at / 100)
    made.tally.note("plain", [])
    made.tally.note("plain", ["plain: wrong"])
    made.tally.hung_up["json"] += 1
    assert as_line(made, 30).startswith("30 s: 2 answered, 1 hung up, 1 wrong; worker 206 MiB, server 50 MiB, 8 + 20 ")
    rows = [line.split() for line in as_text(made).splitlines()]
    assert ["plain", "2", "0", "1"] in rows
    assert ["json", "0", "1", "0"] in rows
    shown = json.loads(as_json(made))
    assert (shown["minutes"], shown["num_clients"]) == (10, 4)
    assert (shown["answered"], shown["wrong"], shown["faults"]) == ({"plain": 2}, {"plain": 1}, ["plain: wrong"])
    assert shown["longest_pause_s"] == 10
    assert shown["worker"]["mib_per_minute"] == pytest.approx(0.6, abs=0.001)


def test_slope() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(3, 1)]) == slope([(3, 1), (3, 2)]) == 0


def test_the_work_of_a_process_is_read() -> None:
    before_s = cpu_s(os.getpid())
    while cpu_s(os.getpid()) < before_s + 0.05:
        sum(range(10_000))
    assert before_s > 0
    assert (clock_s(" 1:02.50\n"), clock_s("10:00:01")) == (62.5, 36001)


def test_processes_are_looked_at() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.readline()
        seen = look(parent.pid, 5)
        parent.stdin.write(b"\n")
    assert seen.at_s == 5
    assert seen.worker_pid != parent.pid
    assert min(seen.server_bytes, seen.worker_bytes) > MIB
    assert min(seen.num_server_files, seen.num_worker_files) >= 3
    with pytest.raises(CallFailed, match="the server is gone"):
        look(parent.pid, 6)
