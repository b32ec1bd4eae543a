"""What a server tells about itself: its models, its health, its line, its routes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI
from pydantic import BaseModel

from app.schemas.chat import ChatCompletion, ChatCompletionRequest
from app.schemas.embeddings import EmbeddingsRequest
from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import chat

HEALTH_PATHS = [f"{prefix}/health{part}" for prefix in ("", "/v1") for part in ("", "/ready")]


class TestModels:
    def test_are_listed(self, server: ServerProcess) -> None:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True) as client:
            (model,) = client.models.list().data
            assert (model.id, model.object, model.owned_by) == ("tiny/llama", "model", "mlx-openai-server")
            assert client.models.retrieve("tiny/llama") == model
        assert server.get("/models").json() == server.get("/v1/models").json()
        assert server.get("/models/tiny/llama").json() == server.get("/v1/models/tiny%2Fllama").json()

    def test_have_facts_once_loaded(self, server: ServerProcess) -> None:
        model = server.get("/v1/models/tiny/llama").json()
        assert (model["status"], model["kind"], model["context_length"]) == ("ready", "lm", 131_072)

    @pytest.mark.parametrize("name", ["llama", "tiny", "tiny/llama/", "no/such/model"])
    def test_of_another_name_are_not_found(self, server: ServerProcess, name: str) -> None:
        reply = server.get(f"/v1/models/{name}")
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "model_not_found"
        assert f"'{name}'" in reply.json()["error"]["message"]


def two_models(folder: Path, first: Path, second: Path) -> Path:
    """A configuration of `one/a` and `two`."""
    models = [
        {"model_path": str(first), "served_model_name": "one/a"},
        {"model_path": str(second), "served_model_name": "two", "max_concurrency": 3, "queue_size": 7},
    ]
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": models}))
    return path


def test_two_models_are_told_apart(tiny_model: Path, tmp_path: Path, start_server: StartServer) -> None:
    server = start_server("--config", two_models(tmp_path, tiny_model, tiny_model)).wait_until_ready()
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["one/a", "two"]
    for body in (chat(), chat(model="three"), chat(model=""), chat(model="TWO"), chat(model="one")):
        reply = server.post(body)
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "model_not_found", "model")
        assert "'one/a', 'two'" in error["message"]
    for name in ("one/a", "two", "two"):
        assert server.post(chat(model=name)).json()["model"] == name
    reply = server.get("/v1/queue/stats").json()
    assert [reply["models"][name]["completed_requests"] for name in ("one/a", "two")] == [1, 2]
    assert reply["queue_stats"]["completed_requests"] == 3
    assert reply["queue_stats"]["max_concurrency"] == 16 + 3
    assert reply["queue_stats"]["max_queue_size"] == 100 + 7


class TestHealth:
    @pytest.mark.parametrize("path", HEALTH_PATHS)
    def test_of_a_ready_server(self, server: ServerProcess, path: str) -> None:
        reply = server.get(path)
        assert reply.status_code == 200
        body = reply.json()
        assert (body["status"], body["model_id"], body["model_status"]) == ("ok", "tiny/llama", "initialized")
        assert body["reason"] is None

    @pytest.mark.parametrize("path", ["/health/live", "/v1/health/live"])
    def test_of_a_living_process(self, server: ServerProcess, path: str) -> None:
        assert (server.get(path).status_code, server.get(path).json()) == (200, {"status": "ok"})

    def test_of_models_that_load_or_have_failed(
        self, never_loading: Path, tmp_path: Path, start_server: StartServer
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        server = start_server("--config", two_models(tmp_path, never_loading, empty))
        eventually(lambda: server.get("/health").json()["models"]["two"]["status"] == "failed", "the failure")
        for path in HEALTH_PATHS:
            reply = server.get(path)
            assert reply.status_code == 503
            body = reply.json()
            assert (body["status"], body["model_id"], body["model_status"]) == ("unhealthy", "one/a", "loading")
            assert body["reason"] == "one/a: loading"
            assert body["models"]["one/a"] == {"status": "loading", "reason": None}
            assert "config.json" in body["models"]["two"]["reason"]
        assert server.get("/health/live").status_code == 200
        stats = server.get("/v1/queue/stats").json()
        assert not stats["queue_stats"]["running"]
        assert [model["status"] for model in server.get("/v1/models").json()["data"]] == ["loading", "failed"]


class TestStats:
    NAMES = (
        *("running", "queue_size", "max_queue_size", "active_requests", "max_concurrency"),
        *("completed_requests", "failed_requests"),
    )

    def test_have_the_names_that_dashboards_read(self, server: ServerProcess) -> None:
        reply = server.get("/v1/queue/stats").json()
        assert reply.keys() == {"status", "queue_stats", "models"}
        assert reply["status"] == "ok"
        assert reply["models"].keys() == {"tiny/llama"}
        for stats in (reply["queue_stats"], reply["models"]["tiny/llama"]):
            assert set(self.NAMES) <= stats.keys()
            assert stats["running"] is True
            counts = {name: stats[name] for name in self.NAMES[1:5]}
            assert counts == {"queue_size": 0, "max_queue_size": 100, "active_requests": 0, "max_concurrency": 16}

    def test_count_what_ends(self, server: ServerProcess) -> None:
        before = server.stats()
        assert server.post(chat(max_tokens=1)).status_code == 200
        assert server.post(chat(logit_bias={"5000": 1})).status_code == 400
        after = server.stats()
        assert after["completed_requests"] == before["completed_requests"] + 1
        assert after["failed_requests"] == before["failed_requests"] + 1


class TestDocuments:
    @pytest.fixture
    def document(self, server: ServerProcess) -> dict[str, Any]:
        return server.get("/openapi.json").json()

    def test_pages_answer(self, server: ServerProcess) -> None:
        for path in ("/", "/docs"):
            reply = server.get(path)
            assert reply.status_code == 200
            assert reply.headers["Content-Type"].startswith("text/html")
            assert "<title>" in reply.text

    def test_name_every_route(self, document: dict[str, Any], server: ServerProcess) -> None:
        routes = {(method, path) for path, item in document["paths"].items() for method in item}
        assert routes >= {
            ("post", "/v1/chat/completions"),
            ("post", "/v1/embeddings"),
            ("get", "/v1/models"),
            ("get", "/v1/models/{model_id}"),
            ("get", "/health"),
            ("get", "/v1/queue/stats"),
        }
        for method, path in routes:
            reply = server.send(method.upper(), path.replace("{model_id}", "tiny/llama"))
            # Those that name an object find none.
            expected = (404, 405) if "{" in path and "model_id" not in path else (200, 400)
            if (method, path) == ("delete", "/v1/models/{model_id}"):
                # It is off here.
                expected = (403,)
            assert reply.status_code in (*expected, 400), (method, path)

    def test_have_no_loose_ends(self, document: dict[str, Any]) -> None:
        references = set(re.findall(r"'\$ref': '#/([^']+)'", str(document)))
        assert references
        for reference in references:
            found: Any = document
            for step in reference.split("/"):
                found = found[step]
            assert isinstance(found, dict)

    def test_describe_bodies_and_replies(self, document: dict[str, Any]) -> None:
        chat_route = document["paths"]["/v1/chat/completions"]["post"]
        body = chat_route["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert body == "#/components/schemas/ChatCompletionRequest"
        schemas = document["components"]["schemas"]
        assert schemas["ChatCompletionRequest"]["properties"].keys() == ChatCompletionRequest.model_fields.keys()
        assert schemas["ChatCompletionRequest"]["required"] == ["messages"]
        replies = chat_route["responses"]
        assert replies["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletion")
        assert replies["200"]["content"]["text/event-stream"]["schema"]["$ref"].endswith("/ChatCompletionChunk")
        for status in ("400", "401", "404", "429", "503"):
            assert replies[status]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")

    def test_have_examples_that_are_accepted(self, document: dict[str, Any], server: ServerProcess) -> None:
        models: dict[str, type[BaseModel]] = {
            "ChatCompletionRequest": ChatCompletionRequest,
            "EmbeddingsRequest": EmbeddingsRequest,
        }
        for name, model in models.items():
            examples = document["components"]["schemas"][name]["examples"]
            assert examples
            for example in examples:
                model.model_validate(example)
        (example,) = document["components"]["schemas"]["ChatCompletionRequest"]["examples"]
        reply = server.post(example | {"max_tokens": 3})
        assert reply.status_code == 200
        ChatCompletion.model_validate(reply.json(), strict=True)
