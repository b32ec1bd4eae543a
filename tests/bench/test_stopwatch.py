"""Time that is added up in one place and read in another while it runs."""

import time
from pathlib import Path

import pytest

from app.bench.endpoint import CallFailed
from bench.stopwatch import Stopwatch, read


def test_what_was_added_can_be_read(tmp_path: Path) -> None:
    watch = Stopwatch(tmp_path, "worker")
    step = watch.inner(lambda count: time.sleep(0.01) or [0] * count)

    def run_turn(count: int) -> bool:
        assert step(count) == [0] * count
        time.sleep(0.02)
        return True

    turn = watch.outer(run_turn)
    started = time.perf_counter()
    assert turn(3)
    first = read(tmp_path, "worker")
    assert turn(2)
    second = read(tmp_path, "worker")
    passed = time.perf_counter() - started
    assert (first.count, second.count) == (3, 5)
    assert 0.03 <= first.outer_s < first.outer_s + 0.03 <= second.outer_s <= passed
    assert 0.02 <= second.inner_s <= second.outer_s - 0.04
    assert started < first.now_s < second.now_s <= started + passed
    # Sleeping is no work.
    assert 0 < second.outer_cpu_s < second.outer_s
    assert second.inner_cpu_s <= second.outer_cpu_s <= second.main_cpu_s <= second.cpu_s


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(CallFailed, match="the server process has no stopwatch"):
            read(tmp_path, "server")
        Stopwatch(tmp_path, "server")


def test_numbers_half_written_are_not_read(tmp_path: Path) -> None:
    Stopwatch(tmp_path, "server").outer(list)()
    written = bytearray((tmp_path / "server").read_bytes())
    assert read(tmp_path, "server").now_s > 0
    written[0] += 1
    (tmp_path / "server").write_bytes(written)
    with pytest.raises(CallFailed):
        read(tmp_path, "server")
