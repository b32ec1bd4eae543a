"""A short soak against a real server of a tiny model."""

import json
import re
from pathlib import Path

from tests.bench.running import run

SHORT = ("--minutes", "0.04", "--clients", "8", "--cases", "1", "--json", "it.json")
# The tiny tokenizer makes four tokens of a word.
ROOM = ("--context-length", "8192", "--max-kv-bytes", "2MiB")


def test_a_short_soak_finds_nothing(tiny_model: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "bench.soak", "--model-path", str(tiny_model), *SHORT, "--", *ROOM)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    assert found["faults"] == []
    assert {"plain", "json", "too long", "bad", "stop"} <= set(found["answered"])
    assert len(found["samples"]) >= 2
    assert re.search(r"^all +\d+ +\d+ +0$", ended.stdout, re.MULTILINE)


def test_wrong_answers_fail_it(tiny_model: Path, tmp_path: Path) -> None:
    narrow = ("--", *ROOM, "--max-body-size", "1KiB")
    ended = run(tmp_path, "-m", "bench.soak", "--model-path", str(tiny_model), *SHORT, "--minutes", "0.01", *narrow)
    assert ended.returncode == 1
    assert "FAULT long: the status is 413 instead of 200" in ended.stdout
