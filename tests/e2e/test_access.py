"""Who may use a server, whose turn it is, and what its log gives away."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually, mapped_files, resident_bytes
from tests.e2e.wire import CHAT, Call, chat, endless

ALICE, BOB = "alice-key-8f14e45f", "bob-key-c9f0f895"
OPEN_PATHS = [f"{prefix}/health{part}" for prefix in ("", "/v1") for part in ("", "/live", "/ready")]


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two keys that serves one request at a time to one web page."""
    arguments = ("--model-path", tiny_model, "--max-concurrency", 1, "--allowed-origins", "https://chat.example")
    environment = {"API_KEY": f"{ALICE},{BOB}", "LOG_LEVEL": "DEBUG"}
    with ServerProcess(tmp_path_factory.mktemp("guarded"), *arguments, environment=environment) as server:
        yield server.wait_until_ready()


class TestKeys:
    @pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/queue/stats", "/openapi.json", "/docs", "/nothing"])
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {ALICE}x"},
            {"Authorization": f"Bearer {ALICE[:-1]}"},
            {"Authorization": f"Basic {ALICE}"},
            {"Authorization": "Bearer wrong", "x-api-key": ALICE},
            {"x-api-key": "wrong"},
            {"x-api-key": f"{ALICE},{BOB}"},
        ],
    )
    def test_are_needed_everywhere(self, guarded: ServerProcess, path: str, headers: dict[str, str]) -> None:
        reply = guarded.get(path, **headers)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert "x-api-key" in error["message"]
        assert reply.json()["request_id"] == reply.headers["X-Request-ID"]

    def test_are_needed_before_a_body_is_read(self, guarded: ServerProcess) -> None:
        assert guarded.send("POST", CHAT, b"not json").status_code == 401

    @pytest.mark.parametrize("key", [ALICE, BOB])
    def test_open_the_server_in_either_header(self, guarded: ServerProcess, key: str) -> None:
        for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
            assert guarded.get("/v1/models", **headers).status_code == 200

    @pytest.mark.parametrize("path", OPEN_PATHS)
    def test_are_not_needed_for_health(self, guarded: ServerProcess, path: str) -> None:
        assert guarded.get(path).status_code == 200


class TestOrigins:
    def preflight(self, server: ServerProcess, origin: str) -> httpx.Response:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}
        return server.send("OPTIONS", CHAT, **headers, **asked)

    def test_preflight_needs_no_key(self, guarded: ServerProcess) -> None:
        reply = self.preflight(guarded, "https://chat.example")
        assert reply.status_code == 200
        assert reply.headers["Access-Control-Allow-Origin"] == "https://chat.example"
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        assert "authorization" in reply.headers["Access-Control-Allow-Headers"].lower()

    def test_other_pages_are_not_allowed(self, guarded: ServerProcess) -> None:
        assert "Access-Control-Allow-Origin" not in self.preflight(guarded, "https://evil.example").headers
        assert "Access-Control-Allow-Origin" not in guarded.get("/health", Origin="https://evil.example").headers

    def test_pages_can_read_errors(self, guarded: ServerProcess) -> None:
        reply = guarded.get("/v1/models", Origin="https://chat.example")
        assert reply.status_code == 401
        assert reply.headers["Access-Control-Allow-Origin"] == "https://chat.example"
        assert "X-Request-ID" in reply.headers["Access-Control-Expose-Headers"]

    def test_every_page_is_allowed_by_default_without_credentials(self, server: ServerProcess) -> None:
        assert self.preflight(server, "https://any.example").headers["Access-Control-Allow-Origin"] == "*"
        for reply in (server.get("/nothing", Origin="https://any.example"), server.get("/", Origin="null")):
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in reply.headers


def test_keys_take_turns(guarded: ServerProcess) -> None:
    """A client with many waiting requests does not keep another one with a single request waiting for all of them."""
    ended: list[str] = []

    def ask(name: str, key: str) -> threading.Thread:
        headers = {"Authorization": f"Bearer {key}"}

        def run() -> None:
            with Call(guarded, chat(max_tokens=64), headers=headers) as call:
                assert call.status == 200
                ended.append(name)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait_for_line(length: int) -> None:
        guarded.wait_for_load(active=1, waiting=length, key=ALICE)

    with Call(guarded, endless(), headers={"x-api-key": ALICE}) as holder:
        holder.read_until_text()
        threads: list[threading.Thread] = []
        for number in range(5):
            threads.append(ask(f"alice {number}", ALICE))
            wait_for_line(number + 1)
        threads.append(ask("bob", BOB))
        wait_for_line(6)
    for thread in threads:
        thread.join()
    assert ended.index("bob") <= 2
    assert [name for name in ended if name != "bob"] == [f"alice {number}" for number in range(5)]


def test_log_tells_neither_prompts_nor_replies_nor_keys(tiny_model: Path, start_server: StartServer) -> None:
    template = tiny_model.parent / "faulty.jinja"
    template.write_text(
        "{% macro again(text) %}{{ again(text) }}{% endmacro %}"
        "{{ again(messages[0].content) if endlessly else messages[0].content }}"
    )
    server = start_server(
        *("--model-path", tiny_model, "--chat-template-file", template, "--log-level", "DEBUG", "--api-key", ALICE)
    ).wait_until_ready()
    headers = {"Authorization": f"Bearer {ALICE}"}
    secret = "the colour of my bicycle"
    reply = server.post(chat(secret, max_tokens=32), **headers)
    answer = reply.json()["choices"][0]["message"]["content"]
    # Every way to fail with the prompt in hand: refused, a template that breaks on it, invalid, unreadable.
    assert server.post(chat(secret, stop=""), **headers).status_code == 400
    assert server.post(chat(secret, chat_template_kwargs={"endlessly": True}), **headers).status_code == 400
    assert server.post({"messages": [{"role": secret, "content": secret}]}, **headers).status_code == 400
    assert server.send("POST", CHAT, f'{{"messages": "{secret}'.encode(), **headers).status_code == 400
    assert server.get(f"/v1/models?api_key={ALICE}", **{"x-api-key": f"{ALICE}x"}).status_code == 401
    eventually(lambda: server.log().count(" POST /v1/chat/completions ") == 5, "the access lines")
    log = server.log()
    assert "bicycle" not in log
    assert answer[:12] not in log
    assert ALICE not in log


def test_server_process_is_small_and_holds_no_model_library(server: ServerProcess) -> None:
    with Call(server, endless(max_tokens=50)) as call:
        assert list(call.events())[-1] == "[DONE]"
    mapped = mapped_files(server.pid)
    assert "site-packages" in mapped
    for library in ("mlx", "tokenizers", "numpy", "torch", "safetensors"):
        assert f"/{library}/" not in mapped
    assert resident_bytes(server.pid) < 100e6
    (worker,) = server.workers()
    assert "/mlx/" in mapped_files(worker)
