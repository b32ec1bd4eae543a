"""How a server ends: told to, killed, or unable to begin."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import StartServer
from tests.e2e.processes import eventually
from tests.e2e.test_faults import assert_ends_with_error
from tests.e2e.wire import Call, chat, endless


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_stream_finishes_and_waiting_requests_are_turned_away(
    tiny_model: Path, start_server: StartServer, number: int
) -> None:
    server = start_server("--model-path", tiny_model, "--max-concurrency", 1).wait_until_ready()
    with Call(server, endless(max_tokens=1000)) as running, Call(server, chat()) as waiting:
        running.read_until_text()
        server.wait_for_load(active=1, waiting=1)
        server.signal(number)
        assert waiting.status == 503
        assert int(waiting.header("Retry-After") or 0) >= 1
        assert waiting.json()["error"]["code"] == "shutting_down"
        *_, last, done = running.events()
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"
    assert server.wait() == 0


def test_requests_longer_than_the_shutdown_timeout_are_told(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model, "--shutdown-timeout", 0.3).wait_until_ready()
    with Call(server, endless()) as stream, Call(server, endless(stream=False)) as unary:
        stream.read_until_text()
        server.wait_for_load(active=2, waiting=0)
        server.signal(signal.SIGTERM)
        assert_ends_with_error(stream, "shutting_down")
        assert unary.status == 503
        assert unary.json()["error"]["code"] == "shutting_down"
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_killed_server_leaves_no_process(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model).wait_until_ready()
    with Call(server, endless()) as stream:
        stream.read_until_text()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_server_that_ends_while_loading_leaves_no_process(
    never_loading: Path, start_server: StartServer, number: int
) -> None:
    server = start_server("--model-path", never_loading)
    eventually(server.workers, "the worker")
    server.signal(number)
    assert server.wait() == (0 if number == signal.SIGTERM else -number)


def test_model_that_cannot_be_loaded_is_explained(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tmp_path)
    assert server.wait() == 1
    assert f"'{tmp_path}' is not a model folder: it has no config.json;" in server.log()
    assert "Traceback" not in server.log()


def test_broken_model_leaves_the_others_alone(tiny_model: Path, tmp_path: Path, start_server: StartServer) -> None:
    models = [
        {"model_path": str(tmp_path), "served_model_name": "broken"},
        {"model_path": str(tiny_model), "served_model_name": "good"},
    ]
    config = tmp_path / "models.yaml"
    config.write_text(yaml.safe_dump({"models": models}))
    server = start_server("--config", config)
    eventually(lambda: server.get("/health").json()["models"]["broken"]["status"] == "failed", "the failure")
    refused = server.post(chat(model="broken"))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_load_failed"
    assert int(refused.headers["Retry-After"]) >= 1
    assert "config.json" in refused.json()["error"]["message"]
    assert server.post(chat(model="good")).status_code == 200
    health = server.get("/health")
    assert health.status_code == 503
    assert "broken" in health.json()["reason"]


def test_taken_port_is_said_in_one_sentence(tiny_model: Path, start_server: StartServer) -> None:
    first = start_server("--model-path", tiny_model)
    second = start_server("--model-path", tiny_model, "--port", first.port)
    assert second.wait() == 1
    assert second.log() == f"mlx-openai-server: cannot listen at 127.0.0.1:{first.port}: Address already in use.\n"


def test_hanging_worker_holds_nobody_else_up(tiny_model: Path, start_server: StartServer) -> None:
    """The server answers whatever is not for the worker, and ends it after a few seconds of grace."""
    server = start_server("--model-path", tiny_model).wait_until_ready()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    assert server.get("/health/live").status_code == 200
    assert server.get("/v1/models").status_code == 200
