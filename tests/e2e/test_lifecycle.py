"""More models than may be loaded: they come when they are asked for, and go when others are."""

import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.core import machine
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, Call, chat, endless
from tests.fixtures import tiny_bert

LOAD = "/v1/models/load"
UNLOAD = "/v1/models/unload"
EMBEDDINGS = "/v1/embeddings"
SPEECH = "/v1/audio/speech"
NAMES_ALONE = ("lm", "lm2", "embed", "say")
# How long a crowd asks for more models than fit.
CROWD_S = float(os.environ.get("CROWD_SECONDS", "10"))


def write_config(folder: Path, models: dict[str, Path], **common: object) -> Path:
    """Every model on demand."""
    entries = [
        {"model_path": str(path), "served_model_name": name, "on_demand": True, "mlx_warmup": False, **common}
        for name, path in models.items()
    ]
    path = folder / "models.json"
    path.write_text(json.dumps({"models": entries}))
    return path


def one(server: ServerProcess, name: str) -> dict[str, Any]:
    return server.get(f"/v1/models/{name}").json()


def start(folder: Path, tiny_model: Path) -> ServerProcess:
    """Two models of which one may be loaded, and a folder that holds none."""
    (folder / "empty").mkdir()
    bert = tiny_bert.write(folder / "bert")
    config = write_config(folder, {"chat": tiny_model, "embed": bert, "broken": folder / "empty"})
    return ServerProcess(folder, "--config", config, "--max-loaded-models", 1)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with start(tmp_path_factory.mktemp("lifecycle"), tiny_model) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def cold(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One of which nobody has asked for anything yet."""
    with start(tmp_path_factory.mktemp("cold"), tiny_model) as running:
        yield running.wait_until_ready()


class TestBeforeLoading:
    def test_nothing_runs_and_the_server_is_healthy(self, cold: ServerProcess) -> None:
        assert cold.workers() == []
        health = cold.get("/health").json()
        assert (health["status"], health["model_status"], health["reason"]) == ("ok", "unloaded", None)
        stats = cold.stats()
        assert stats["running"] is True
        assert (stats["loads"], stats["leases"], stats["memory_bytes"]) == (0, 0, 0)

    def test_the_files_tell_what_is_served(self, cold: ServerProcess, tiny_model: Path) -> None:
        eventually(lambda: one(cold, "embed")["kind"], "the files were read")
        found = one(cold, "chat")
        assert (found["status"], found["kind"], found["context_length"]) == ("unloaded", "lm", 131_072)
        assert found["size_bytes"] == sum(path.stat().st_size for path in tiny_model.glob("*.safetensors"))
        assert (found["on_demand"], found["memory_bytes"], found["capabilities"]) == (True, 0, ["chat", "tools"])
        assert one(cold, "embed")["capabilities"] == ["embeddings"]
        nothing = one(cold, "broken")
        assert (nothing["kind"], nothing["size_bytes"], nothing["capabilities"]) == (None, None, None)

    def test_a_request_for_another_kind_of_model_loads_nothing(self, cold: ServerProcess) -> None:
        reply = cold.post(chat(model="embed"))
        assert reply.status_code == 400
        assert EMBEDDINGS in reply.json()["error"]["message"]
        assert cold.stats()["loads"] == 0


class TestRequests:
    def test_for_one_cold_model_share_its_load(self, server: ServerProcess) -> None:
        server.post({"model": "chat"}, UNLOAD)
        before = server.stats("chat")["loads"]
        with Call(server, chat(model="chat")) as first, Call(server, chat(model="chat", stream=True)) as second:
            text = first.json()["choices"][0]["message"]["content"]
            deltas = [chunk["choices"][0]["delta"] for chunk in second.chunks()]
        assert "".join(delta.get("content") or "" for delta in deltas) == text
        stats = server.stats("chat")
        assert stats["loads"] == before + 1
        assert stats["memory_bytes"] > 10 * 2**20
        assert stats["memory_bytes"] == pytest.approx(one(server, "chat")["memory_bytes"], rel=0.2)

    def test_wait_for_the_lease_of_another_model(self, server: ServerProcess) -> None:
        with Call(server, endless(model="chat")) as stream:
            stream.read_until_text()
            with Call(server, {"model": "embed", "input": "fox"}, EMBEDDINGS) as waiting:
                eventually(lambda: one(server, "embed")["status"] == "loading", "it waits")
                eventually(lambda: "'chat'" in (one(server, "embed")["reason"] or ""), "and says for whom")
                assert server.get("/health").status_code == 200
                stream.read_until_text()
                assert server.stats("chat")["leases"] == 1
                stream.hang_up()
                assert waiting.status == 200
        assert (one(server, "chat")["status"], one(server, "embed")["status"]) == ("unloaded", "ready")
        assert len(server.workers()) == 1

    def test_for_a_model_that_cannot_be_loaded_say_why(self, server: ServerProcess) -> None:
        with Call(server, chat(model="broken")) as first, Call(server, chat(model="broken")) as second:
            for call in (first, second):
                assert call.status == 503
                error = call.json()["error"]
                assert error["code"] == "model_load_failed"
                assert "config.json" in error["message"]
        assert one(server, "broken")["status"] == "failed"
        assert server.get("/health").status_code == 200


class TestByHand:
    def test_loading_and_unloading(self, server: ServerProcess) -> None:
        reply = server.post({"model": "chat"}, LOAD)
        assert (reply.status_code, reply.json()["status"], reply.json()["id"]) == (200, "ready", "chat")
        loads = server.stats("chat")["loads"]
        assert server.post({"model": "chat"}, "/models/load").status_code == 200
        assert server.stats("chat")["loads"] == loads
        for path in (UNLOAD, "/models/unload"):
            reply = server.post({"model": "chat"}, path)
            assert (reply.status_code, reply.json()["status"]) == (200, "unloaded")
        assert server.workers() == []

    def test_not_under_a_stream(self, server: ServerProcess) -> None:
        with Call(server, endless(model="chat")) as stream:
            stream.read_until_text()
            reply = server.post({"model": "chat", "timeout": 0.1}, UNLOAD)
            assert reply.status_code == 409
            assert (reply.json()["error"]["code"], reply.json()["error"]["type"]) == (
                "conflict",
                "invalid_request_error",
            )
            stream.read_until_text()
        server.wait_until_idle()

    @pytest.mark.parametrize("path", [LOAD, UNLOAD])
    def test_of_what_is_not_there(self, server: ServerProcess, path: str) -> None:
        reply = server.post({"model": "other"}, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert reply.json()["error"]["param"] == "model"
        reply = server.post({}, path)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
        assert server.post({"model": "chat", "timeout": -1}, UNLOAD).status_code == 400

    def test_what_cannot_be_loaded(self, server: ServerProcess) -> None:
        reply = server.post({"model": "broken"}, LOAD)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_load_failed")


def test_a_model_that_never_fits_is_refused_at_once(tiny_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, {"chat": tiny_model})
    with ServerProcess(tmp_path, "--config", config, "--memory-budget", "1MiB") as server:
        reply = server.post(chat())
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_load_failed")
        assert "--memory-budget" in reply.json()["error"]["message"]


@dataclass
class Crowd:
    """Clients that ask models at random, and often hang up; `wrong` is what they were told that they should not be."""

    server: ServerProcess
    bodies: dict[str, tuple[str, dict[str, Any]]]
    expected: dict[str, bytes]
    until: float
    wrong: list[str] = field(default_factory=list[str])
    num_answers: int = 0
    most_workers: int = 0

    def client(self, seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < self.until:
            name = draw.choice(list(self.bodies))
            path, body = self.bodies[name]
            if path == CHAT and draw.random() < 0.4:
                self.leave_early(draw, body)
                continue
            with Call(self.server, body, path) as call:
                if draw.random() < 0.3:
                    time.sleep(draw.random() / 5)
                    call.hang_up(abruptly=draw.random() < 0.5)
                    continue
                answer = essence(path, call.response.read())
                if (call.status, answer) != (200, self.expected[name]):
                    self.wrong.append(f"{name}: {call.status} {answer[:300]!r}")
                self.num_answers += 1

    def leave_early(self, draw: random.Random, body: dict[str, Any]) -> None:
        with Call(self.server, endless(model=body["model"], seed=draw.randrange(9))) as call:
            if draw.random() < 0.5:
                call.read_until_text()
            call.hang_up(abruptly=draw.random() < 0.5)

    def watch(self) -> None:
        while time.monotonic() < self.until:
            self.most_workers = max(self.most_workers, len(self.server.workers()))
            time.sleep(0.02)


def essence(path: str, answer: bytes) -> bytes:
    """What is the same each time, whatever the model is called."""
    if path == SPEECH:
        return answer
    reply = json.loads(answer)
    return json.dumps(reply.get("choices") or reply.get("data") or reply).encode()


@pytest.mark.timeout(CROWD_S + 110)
def test_six_models_where_three_fit(tiny_model: Path, tmp_path: Path) -> None:
    from tests.fixtures import tiny_kokoro, tiny_lm

    other, bert = tiny_lm.qwen2(tmp_path / "qwen"), tiny_bert.write(tmp_path / "bert")
    kokoro = tiny_kokoro.write(tmp_path / "kokoro")
    shutil.copytree(bert, tmp_path / "bert2")
    shutil.copytree(kokoro, tmp_path / "kokoro2")
    places = {"lm": tiny_model, "lm2": other, "embed": bert, "embed2": tmp_path / "bert2"}
    places |= {"say": kokoro, "say2": tmp_path / "kokoro2"}
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        **{name: (CHAT, chat(model=name)) for name in ("lm", "lm2")},
        **{name: (EMBEDDINGS, {"model": name, "input": "the quick fox"}) for name in ("embed", "embed2")},
        **{name: (SPEECH, {"model": name, "input": "Hi.", "response_format": "wav"}) for name in ("say", "say2")},
    }
    config = write_config(tmp_path, places, on_demand_idle_timeout=1.5)
    with ServerProcess(tmp_path, "--config", config, "--max-loaded-models", 3) as server:
        with ThreadPoolExecutor() as pool:
            answers = {name: pool.submit(server.post, bodies[name][1], bodies[name][0]) for name in NAMES_ALONE}
        expected = {name: essence(bodies[name][0], answer.result().content) for name, answer in answers.items()}
        assert len(set(expected.values())) == len(NAMES_ALONE)
        # The same files under another name.
        expected |= {"embed2": expected["embed"], "say2": expected["say"]}
        crowd = Crowd(server, bodies, expected, time.monotonic() + CROWD_S)
        threads = [threading.Thread(target=crowd.client, args=(seed,)) for seed in range(8)]
        threads.append(threading.Thread(target=crowd.watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert crowd.wrong == []
        assert crowd.num_answers > 6
        assert 1 < crowd.most_workers <= 3
        eventually(lambda: server.stats()["leases"] == 0, "every lease is back")
        stats = server.stats()
        assert (stats["failed_requests"], stats["timed_out_requests"], stats["worker_restarts"]) == (0, 0, 0)
        assert stats["loads"] > 6
        eventually(lambda: all(one(server, name)["status"] == "unloaded" for name in places), "idle models are gone")
        assert server.stats()["memory_bytes"] == 0
        assert server.workers() == []
        assert_every_transition_is_logged(server.log(), list(places))
        resident_bytes = machine.resident_bytes(server.pid)
        print(f"{crowd.num_answers} answers, {stats['loads']} loads, {resident_bytes / 2**20:.0f} MiB in the end")
        assert resident_bytes < 200 * 2**20


def assert_every_transition_is_logged(log: str, names: list[str]) -> None:
    after = {"loading": {"ready", "unloaded", "unloading"}, "ready": {"unloading"}, "unloading": {"ready", "unloaded"}}
    for name in names:
        states = re.findall(rf"\b{name}: (loading|ready|unloading|unloaded|restarting|failed)\b", log)
        assert states[0] == "loading"
        assert states[-1] == "unloaded"
        for before, state in pairwise(states):
            assert state in after.get(before, {"loading"}), f"{name}: {before} -> {state}"
