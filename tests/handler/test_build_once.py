import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import ModelLoadError
from app.handler.build_once import build_once, convert_once

# Builds sys.argv[1] slowly: one line in the log for each build, a half-written file in between, and maybe a failure.
BUILDER = """
import sys, time
from pathlib import Path
from app.handler.build_once import build_once

target, log, pause_s, outcome = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

def build(folder):
    with log.open("a") as file:
        file.write(f"{outcome}\\n")
    (folder / "weights").write_text("ha")
    time.sleep(pause_s)
    if outcome == "fails":
        raise ValueError("no")
    (folder / "weights").write_text("half and half")

print(build_once(target, build))
"""


def start(target: Path, log: Path, pause_s: float, outcome: str = "builds") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(target), str(log), str(pause_s), outcome]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline_s, f"{path} never appeared"
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_whole(folder: Path) -> None:
    (folder / "weights").write_text("whole")


def never(_: Path) -> None:
    raise AssertionError("built twice")


def test_processes_that_start_together_build_one_folder(tmp_path: Path) -> None:
    target, log = tmp_path / "models" / "m-1", tmp_path / "log"

    processes = [start(target, log, 0.3) for _ in range(4)]
    outputs = [process.communicate(timeout=30) for process in processes]

    assert outputs == [(f"{target}\n", "")] * 4
    assert log.read_text() == "builds\n"
    assert names(target.parent) == ["m-1"]
    assert (target / "weights").read_text() == "half and half"


def test_a_process_killed_half_way_is_repaired_by_the_next(tmp_path: Path) -> None:
    target, log = tmp_path / "m-1", tmp_path / "log"
    unfinished = tmp_path / ".m-1.unfinished"
    process = start(target, log, 60)
    wait_for(unfinished / "weights")

    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)

    assert process.returncode == -signal.SIGKILL
    assert unfinished.exists()
    assert not target.exists()
    assert build_once(target, write_whole) == target
    assert names(tmp_path) == ["log", "m-1"]
    assert (target / "weights").read_text() == "whole"


def test_who_waits_for_a_builder_that_dies_builds_instead(tmp_path: Path) -> None:
    target, log = tmp_path / "m-1", tmp_path / "log"
    first = start(target, log, 60)
    wait_for(tmp_path / ".m-1.unfinished" / "weights")
    second = start(target, log, 0)
    time.sleep(0.5)
    assert second.poll() is None

    first.kill()
    first.communicate(timeout=10)

    assert second.communicate(timeout=10) == (f"{target}\n", "")
    assert log.read_text() == "builds\n" * 2
    assert names(tmp_path) == ["log", "m-1"]


def test_who_waits_for_a_builder_that_fails_builds_instead(tmp_path: Path) -> None:
    target, log = tmp_path / "m-1", tmp_path / "log"
    first = start(target, log, 0.5, "fails")
    wait_for(tmp_path / ".m-1.unfinished" / "weights")
    second = start(target, log, 0.5)
    assert "ValueError: no" in first.communicate(timeout=10)[1]
    wait_for(tmp_path / ".m-1.unfinished" / "weights")
    third = start(target, log, 0)

    assert second.communicate(timeout=10) == (f"{target}\n", "")
    # The first took the lock file with it: the third must still have waited for the second.
    assert third.communicate(timeout=10) == (f"{target}\n", "")
    assert log.read_text() == "fails\nbuilds\n"
    assert names(tmp_path) == ["log", "m-1"]


def test_a_failure_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_whole(folder)
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        build_once(tmp_path / "m", fail)

    assert names(tmp_path) == []


def test_a_folder_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    build_once(tmp_path / "m", write_whole)

    assert build_once(tmp_path / "m", never) == tmp_path / "m"


def test_a_changed_or_moved_file_is_converted_anew(tmp_path: Path) -> None:
    said: list[str] = []
    source = tmp_path / "m.bin"
    source.write_text("one")

    def convert(file: Path, folder: Path) -> None:
        (folder / "copy").write_bytes(file.read_bytes())

    def converted(file: Path) -> Path:
        return convert_once(file, "m", tmp_path / "cache", convert, said.append)

    first = converted(source)
    assert converted(source) == first
    assert len(said) == 1
    source.write_text("two!")
    second = converted(source)
    third = converted(source.rename(tmp_path / "n.bin"))

    assert [(path / "copy").read_text() for path in (first, second, third)] == ["one", "two!", "two!"]
    assert len({first, second, third}) == len(said) == 3
    assert said[0].startswith("converting m.bin ")
    assert first.parent == tmp_path / "cache" / "models"
    assert first.name.startswith("m-")


def test_a_cache_that_cannot_be_written_is_a_load_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    source = tmp_path / "m.bin"
    source.write_text("one")

    with pytest.raises(ModelLoadError, match=r"m\.bin could not be converted into .*cache"):
        convert_once(source, "m", tmp_path / "cache", lambda _, __: None, lambda _: None)
