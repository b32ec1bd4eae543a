"""Models that share a machine plan with a part of it each, and say what they hold."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import Call, chat, endless
from tests.fixtures import fake_nvml, tiny_bert

MIB = 2**20
BUDGET = 2048 * MIB


def memory_of(server: ServerProcess, model: str) -> dict[str, int]:
    return server.get(f"/v1/cache/stats?model={model}").json()["models"][model]


def planned(memory: dict[str, int]) -> int:
    return memory["weights_bytes"] + memory["kv_max_bytes"] + memory["max_bytes"]


def test_models_together_plan_with_the_budget(tiny_model: Path, tmp_path: Path, start_server: StartServer) -> None:
    entries: list[dict[str, Any]] = [
        {"model_path": str(tiny_model), "served_model_name": "kept"},
        {"model_path": str(tiny_model), "served_model_name": "called", "on_demand": True},
        {"model_path": str(tiny_bert.write(tmp_path / "bert")), "served_model_name": "other", "on_demand": True},
    ]
    config = tmp_path / "models.json"
    config.write_text(json.dumps({"models": entries}))
    server = start_server("--config", config, "--memory-budget", BUDGET).wait_until_ready()
    assert server.post(chat(model="called")).status_code == 200
    kept, called = memory_of(server, "kept"), memory_of(server, "called")
    # Half of it is for those on demand, of which two may be loaded; a quarter of each part is room to compute.
    assert 0.3 * BUDGET < planned(kept) < BUDGET / 2
    assert 0.15 * BUDGET < planned(called) < BUDGET / 4
    assert memory_of(server, "other")["weights_bytes"] == 0
    assert server.post({"model": "other", "input": "fox"}, "/v1/embeddings").status_code == 200
    other = memory_of(server, "other")
    assert 0 < other["weights_bytes"] <= other["peak_bytes"]


def test_a_model_alone_has_the_machine_and_says_what_it_holds(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model, "--served-model-name", "alone").wait_until_ready()
    on_disk = sum(path.stat().st_size for path in tiny_model.glob("*.safetensors"))
    before = memory_of(server, "alone")
    # The file has a head; on a CPU numbers may take twice as much or more.
    assert 0.9 * on_disk < before["weights_bytes"] < 8 * on_disk
    # More than any part of the default budget could be.
    assert planned(before) > 0.7 * machine_bytes()
    assert before["kv_bytes"] == 0
    with Call(server, endless("the quick brown fox " * 50, model="alone")) as stream:
        stream.read_until_text()
        during = memory_of(server, "alone")
        assert 0 < during["kv_bytes"] < during["kv_max_bytes"]
        assert before["weights_bytes"] + during["kv_bytes"] <= during["active_bytes"] <= during["peak_bytes"]
    eventually(lambda: memory_of(server, "alone")["kv_bytes"] == 0, "the caches of running requests are gone")
    after = memory_of(server, "alone")
    assert after["num_bytes"] > 0
    assert after["peak_bytes"] >= during["peak_bytes"]


def machine_bytes() -> int:
    from app.handler import device

    return device.memory_bytes()


def test_models_that_are_found_have_their_part(tiny_model: Path, tmp_path: Path, start_server: StartServer) -> None:
    shutil.copytree(tiny_model, tmp_path / "models" / "found")
    arguments = ("--model-path", tiny_model, "--served-model-name", "kept", "--models-dir", tmp_path / "models")
    server = start_server(*arguments).wait_until_ready()
    assert planned(memory_of(server, "kept")) < 0.45 * machine_bytes()


@pytest.mark.skipif(sys.platform == "darwin", reason="Macs have no NVIDIA GPU")
def test_shares_of_the_memory_are_those_of_the_gpu(tiny_model: Path, tmp_path: Path, start_server: StartServer) -> None:
    library = fake_nvml.build(tmp_path)
    fake_nvml.describe(library, 1000 * MIB)
    environment = fake_nvml.environment(library)
    server = start_server(
        "--model-path", tiny_model, "--on-demand", "--memory-budget", "10%", environment=environment
    ).wait_until_ready()
    refused = server.post(chat())
    assert refused.status_code == 503
    assert "the budget is 100.0 MiB" in refused.json()["error"]["message"]
    server = start_server(
        "--model-path", tiny_model, "--served-model-name", "one", environment=environment
    ).wait_until_ready()
    fake_nvml.describe(library, 1000 * MIB, {server.worker_of("one"): 123 * MIB})
    assert server.stats("one")["memory_bytes"] == 123 * MIB
