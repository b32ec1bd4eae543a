"""Both commands against a real server of a tiny model."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench.running import run
from tests.e2e.processes import ServerProcess

SHORT = ("--rounds", "1", "--num-tokens", "8")


def figures(group: dict[str, Any]) -> set[str]:
    """The names of those that were measured, all of which are above zero."""
    assert all(value is None or value > 0 for value in group.values())
    return {name for name, value in group.items() if value is not None}


def test_measuring_a_server(nano_model: Path, tmp_path: Path) -> None:
    arguments = ["-m", "app.cli", "bench", *SHORT, "--concurrency", "1,3", "--json", "it.json", "--svg", "it.svg"]
    options = ("--model-path", nano_model, "--served-model-name", "tiny/llama", "--api-key", "secret")
    with ServerProcess(tmp_path, *options) as server:
        server.wait_until_ready()
        ended = run(tmp_path, *arguments, "--base-url", server.url, "--api-key", "secret")
        refused = run(tmp_path, *arguments, "--base-url", server.url)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"tiny/llama at {server.url}/v1, one round\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: {server.url}/v1 wants an API key: give it with --api-key.\n"
    found = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    assert figures(found["ratios"]) >= {"scaling_3", "prefix"}
    # On a busy machine one answer may have ended before the other could be measured beside it; then a note says so.
    for part in ("interference", "constrained"):
        assert (found["figures"][part] is not None) or any("ended" in note for note in found["notes"])
        figures(found["figures"][part] or {})
    assert set(found["figures"]["load"]) == {"1", "3"}
    for load in found["figures"]["load"].values():
        assert load["library"] is None
        assert "whole_tokens_per_s" in figures(load["server"])
    assert found["figures"]["prefix"]["cached_share"] > 0.9
    assert ElementTree.parse(tmp_path / "it.svg").getroot().tag.endswith("svg")


def test_measuring_our_server_beside_the_library(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["--concurrency", "1,2", "--only", "load", "--only", "prefix", "--json", "it.json"]
    ended = run(tmp_path, "-m", "bench", "--nano", "--model-path", str(tiny_model), *SHORT, *arguments)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))
    assert figures(found["ratios"]) >= {"whole_1", "whole_2", "ttft_1", "prefix"}
    for load in found["figures"]["load"].values():
        assert figures(load["library"]) >= {"ttft_s", "decode_tokens_per_s", "whole_tokens_per_s"}
    assert found["figures"]["interference"] is None


def test_what_a_token_costs_by_place(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--concurrency", "1,3", "--only", "cost", "--json", "it.json"]
    ended = run(tmp_path, "-m", "bench", "--model-path", str(tiny_model), *arguments)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))["figures"]["cost"]
    assert set(found) == {"1", "3"}, ended.stdout
    for cost in found.values():
        assert len(figures(cost)) == 14
        walls = [value for name, value in cost.items() if name.endswith("_wall_us")]
        assert sum(walls) == pytest.approx(cost["wall_us"])
        # The parsing is done when the rest is over.
        work = [value for name, value in cost.items() if name.endswith("_cpu_us") and "parsing" not in name]
        assert sum(work) == pytest.approx(cost["cpu_us"])
    assert "worker: engine outside the step" in ended.stdout


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "app.cli", "bench", "--base-url", "http://127.0.0.1:9")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "Error: no connection to http://127.0.0.1:9/v1: Connection refused.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--base-url"),
        (["--base-url", "ftp://h"], "ftp://h is not a base URL"),
        (["--base-url", "http://h", "--concurrency", "1,x"], "no list of numbers"),
        (["--base-url", "http://h", "--concurrency", "0"], "no list of numbers"),
        (["--base-url", "http://h", "--rounds", "0"], "--rounds"),
        (["--base-url", "http://h", "--only", "cost"], "--only"),
    ],
)
def test_wrong_options(tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = run(tmp_path, "-m", "app.cli", "bench", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_the_command_needs_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "import importlib, pkgutil, sys, app.bench\n"
        "for module in pkgutil.iter_modules(app.bench.__path__, 'app.bench.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'numpy', 'fastapi', 'app.handler', 'app.core', 'app.api'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert run(tmp_path, "-m", "show").stdout == "[]\n"
