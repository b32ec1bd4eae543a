"""The prefix cache as users see it: cached tokens, statistics, and a folder that outlives the server."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import Call, chat, endless

LONG = "the quick brown fox jumps over the lazy dog, again and again, number {}. "
MODEL = "tiny"


def conversation(topic: str, *later: dict[str, str]) -> dict[str, Any]:
    first = {"role": "user", "content": topic + "".join(LONG.format(number) for number in range(60))}
    return chat() | {"messages": [first, *later]}


def stats(server: ServerProcess, query: str = "") -> dict[str, int]:
    reply = server.get(f"/v1/cache/stats{query}")
    assert reply.status_code == 200
    body = reply.json()
    assert body["status"] == "ok"
    assert body["cache_stats"] == body["models"][MODEL]
    return body["cache_stats"]


def ask(server: ServerProcess, topic: str, *later: dict[str, str]) -> tuple[dict[str, str], int, int]:
    """The answer, and the tokens of the prompt: all, and those that were cached."""
    reply = server.post(conversation(topic, *later))
    assert reply.status_code == 200
    usage = reply.json()["usage"]
    message = reply.json()["choices"][0]["message"]
    answer = {"role": "assistant", "content": message["content"]}
    return answer, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def second_turn(server: ServerProcess, topic: str, answer: dict[str, str], num_before: int) -> None:
    """It starts where the first one ended."""
    again, num_tokens, num_cached = ask(server, topic, answer, {"role": "user", "content": "And then?"})
    assert again["content"]
    assert num_before * 0.9 < num_cached < num_tokens


@pytest.mark.parametrize("end", ["in order", "worker killed"])
def test_a_conversation_goes_on_after_a_restart(
    tiny_model: Path, tmp_path: Path, start_server: StartServer, end: str
) -> None:
    arguments: list[object] = ["--model-path", tiny_model, "--served-model-name", MODEL]
    arguments += ["--prompt-cache-dir", tmp_path / "prompts"]
    if end != "in order":
        # What is evicted is on disk at once: there is room for no two of them.
        arguments += ["--prompt-cache-bytes", 1000]
    server = start_server(*arguments).wait_until_ready()
    answer, num_before, num_cached = ask(server, "First: ")
    assert num_before > 1000
    assert num_cached == 0
    if end != "in order":
        ask(server, "Other: ")
        eventually(lambda: len(files(tmp_path)) >= 2, "the files")
        server.wait_until_idle()
    match end:
        case "worker killed":
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: server.workers() not in ([], [worker]), "another worker")
            server.wait_until_ready()
        case _:
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert "Traceback" not in server.log()
            server = start_server(*arguments).wait_until_ready()
            # While nobody asks for anything, what was in use is read.
            eventually(lambda: stats(server)["num_bytes"] > 0, "the conversation in memory")
    assert stats(server)["disk_files"] == len(files(tmp_path)) > 0
    second_turn(server, "First: ", answer, num_before)
    after = stats(server)
    assert after["disk_loads"] > 0
    assert after["hits"] == after["lookups"] == 1
    assert after["hit_tokens"] > 0.9 * num_before


def files(folder: Path) -> list[Path]:
    return list(folder.glob("prompts/*/*.safetensors"))


class TestStatistics:
    @pytest.fixture
    def running(self, tiny_model: Path, tmp_path: Path, start_server: StartServer) -> ServerProcess:
        arguments = ("--model-path", tiny_model, "--served-model-name", MODEL, "--max-concurrency", 1)
        return start_server(*arguments, "--prompt-cache-dir", tmp_path / "prompts").wait_until_ready()

    def test_count_and_clear(self, running: ServerProcess) -> None:
        before = stats(running)
        assert before["max_bytes"] > 0
        memory = {"weights_bytes", "active_bytes", "peak_bytes"}
        assert all(value == 0 for name, value in before.items() if "max" not in name and name not in memory)
        answer, num_tokens, _ = ask(running, "")
        second_turn(running, "", answer, num_tokens)
        now = stats(running, f"?model={MODEL}")
        assert (now["lookups"], now["hits"]) == (2, 1)
        assert num_tokens * 0.9 < now["hit_tokens"] < now["looked_up_tokens"]
        assert now["num_bytes"] > 0
        again = running.get("/cache/stats").json()["cache_stats"]
        assert {name: again[name] for name in now.keys() - memory} == {name: now[name] for name in now.keys() - memory}
        freed = running.send("DELETE", "/v1/cache").json()
        assert freed["freed"] == freed["models"][MODEL]
        assert freed["freed"] == {name: now[name] for name in freed["freed"]}
        assert stats(running)["num_bytes"] == stats(running)["num_sequences"] == 0
        assert ask(running, "")[2] == 0
        assert running.send("DELETE", f"/cache?model={MODEL}").json()["freed"]["num_bytes"] > 0

    def test_are_given_while_every_slot_is_taken(self, running: ServerProcess) -> None:
        with Call(running, endless()) as stream:
            stream.read_until_text()
            running.wait_for_load(active=1, waiting=0)
            assert stats(running)["lookups"] == 1
            assert running.send("DELETE", "/v1/cache").status_code == 200
            assert stats(running)["num_bytes"] == 0
            stream.read_until_text()

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_of_an_unknown_model_are_not_found(self, server: ServerProcess, method: str) -> None:
        path = "/v1/cache/stats" if method == "GET" else "/v1/cache"
        reply = server.send(method, f"{path}?model=unknown")
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "model_not_found"

    def test_of_a_model_that_loads_are_zeros(self, never_loading: Path, start_server: StartServer) -> None:
        server = start_server("--model-path", never_loading, "--served-model-name", MODEL)
        assert set(stats(server).values()) == {0}
        assert set(server.send("DELETE", "/v1/cache").json()["freed"].values()) == {0}

    def test_are_not_said_to_be_cleared_on_disk_while_a_model_is_not_loaded(
        self, tiny_model: Path, tmp_path: Path, start_server: StartServer
    ) -> None:
        entries = [
            {"model_path": str(tiny_model), "served_model_name": name, "on_demand": name != MODEL}
            for name in (MODEL, "called")
        ]
        config = tmp_path / "models.json"
        config.write_text(json.dumps({"models": entries}))
        server = start_server("--config", config, "--prompt-cache-dir", tmp_path / "prompts").wait_until_ready()
        assert server.post(chat(model=MODEL)).status_code == 200
        for query in ("", "?model=called"):
            refused = server.send("DELETE", f"/v1/cache{query}")
            assert refused.status_code == 409
            assert "'called' is unloaded" in refused.json()["error"]["message"]
        # Of the others, nothing is left all the same.
        assert memory_of(server, MODEL)["num_bytes"] == 0
        assert server.post({"model": "called"}, "/v1/models/load").status_code == 200
        assert server.send("DELETE", "/v1/cache").status_code == 200


def memory_of(server: ServerProcess, model: str) -> dict[str, int]:
    return server.get(f"/v1/cache/stats?model={model}").json()["models"][model]
