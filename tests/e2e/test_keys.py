"""Named keys, their limits, and what only admins may do."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ROOT, ServerProcess, eventually
from tests.e2e.wire import CHAT, Call, chat, endless

KEYS = """
plain: sk-plain
few: {key: sk-few, requests_per_minute: 2}
anthropic-few: {key: sk-anthropic-few, requests_per_minute: 1}
thrifty: {key: sk-thrifty, tokens_per_minute: 150}
single: {key: sk-single, max_concurrency: 1}
background: {key: sk-background, max_concurrency: 1}
root: {key: sk-root, admin: true}
"""
MESSAGES = "/v1/messages"


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys.yaml").write_text(KEYS)
    arguments = ("--model-path", tiny_model, "--api-keys-file", "keys.yaml", "--api-key", "sk-unnamed", "--debug")
    with ServerProcess(folder, *arguments) as server:
        yield server.wait_until_ready()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def work_done(server: ServerProcess) -> tuple[int, dict[str, Any]]:
    """The prompts that the worker itself has seen, and every count of the model's line."""
    seen = server.get("/v1/cache/stats", **bearer("sk-root")).json()["cache_stats"]["lookups"]
    stats = server.stats(key="sk-root")
    return seen, {name: number for name, number in stats.items() if name.endswith("_requests")}


class TestRequestsAMinute:
    def test_are_told_and_then_refused(self, keyed: ServerProcess) -> None:
        remaining: list[str] = []
        for _ in range(2):
            reply = keyed.post(chat(), **bearer("sk-few"))
            assert reply.status_code == 200
            assert reply.headers["x-ratelimit-limit-requests"] == "2"
            assert "x-ratelimit-limit-tokens" not in reply.headers
            remaining.append(reply.headers["x-ratelimit-remaining-requests"])
        assert remaining == ["1", "0"]
        before = work_done(keyed)
        reply = keyed.post(chat(), **bearer("sk-few"))
        assert reply.status_code == 429
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "'few'" in error["message"]
        assert 0 < int(reply.headers["retry-after"]) <= 30
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert reply.headers["x-ratelimit-reset-requests"].endswith("s")
        # A body that is never read, and another protocol.
        assert keyed.send("POST", CHAT, b"not json", **bearer("sk-few")).status_code == 429
        assert keyed.post({"input": "x"}, "/v1/responses", **bearer("sk-few")).status_code == 429
        assert work_done(keyed) == before

    def test_are_not_taken_by_what_only_looks(self, keyed: ServerProcess) -> None:
        for _ in range(5):
            assert keyed.get("/v1/models", **bearer("sk-few")).status_code == 200

    def test_speak_anthropic_to_its_clients(self, keyed: ServerProcess) -> None:
        body = {"model": "x", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
        first, second = (keyed.post(body, MESSAGES, **{"x-api-key": "sk-anthropic-few"}) for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 429)
        for reply in (first, second):
            assert reply.headers["anthropic-ratelimit-requests-limit"] == "1"
            assert reply.headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert reply.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
            assert not any(name.startswith("x-ratelimit") for name in reply.headers)
        assert second.json()["type"] == "error"
        assert second.json()["error"]["type"] == "rate_limit_error"
        assert int(second.headers["retry-after"]) > 0


class TestTokensAMinute:
    def test_are_charged_while_a_stream_runs_and_when_it_is_hung_up(self, keyed: ServerProcess) -> None:
        assert keyed.post(chat(max_tokens=1), **bearer("sk-plain")).json()["usage"]["prompt_tokens"] < 100
        with Call(keyed, endless(), headers=bearer("sk-thrifty")) as call:
            assert call.header("x-ratelimit-limit-tokens") == "150"
            assert int(call.header("x-ratelimit-remaining-tokens") or 0) > 0
            chunks = call.chunks()
            for _ in range(200):
                next(chunks)
            before = work_done(keyed)[0]
            for _ in range(2):
                reply = keyed.post(chat(), **bearer("sk-thrifty"))
                assert reply.status_code == 429
                assert "150 tokens a minute" in reply.json()["error"]["message"]
                assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
                call.hang_up()
            assert work_done(keyed)[0] == before


class TestRequestsAtOnce:
    def test_are_refused_until_one_has_ended(self, keyed: ServerProcess) -> None:
        with Call(keyed, endless(), headers=bearer("sk-single")) as call:
            call.read_until_text()
            before = work_done(keyed)
            reply = keyed.post(chat(), **bearer("sk-single"))
            assert reply.status_code == 429
            assert "running" in reply.json()["error"]["message"]
            assert int(reply.headers["retry-after"]) == 1
            assert keyed.post(chat(), **bearer("sk-plain")).status_code == 200
            assert work_done(keyed)[0] == before[0] + 1
        eventually(lambda: keyed.post(chat(), **bearer("sk-single")).status_code == 200, "a place")
        # Nor is one kept by a request that fails.
        assert keyed.send("POST", CHAT, b"not json", **bearer("sk-single")).status_code == 400
        assert keyed.post(chat(), **bearer("sk-single")).status_code == 200

    def test_count_what_is_made_in_the_background(self, keyed: ServerProcess) -> None:
        key = bearer("sk-background")
        body = {"input": "the quick brown fox", "background": True, "max_output_tokens": 100_000, "temperature": 1}
        response = keyed.post(body, "/v1/responses", **key).json()
        path = f"/v1/responses/{response['id']}"
        eventually(lambda: keyed.get(path, **key).json()["status"] == "in_progress", "its start")
        assert keyed.post(chat(), **key).status_code == 429
        # Ending it must be possible with a key that has no place left.
        assert keyed.send("DELETE", path, **key).status_code == 200
        eventually(lambda: keyed.post(chat(), **key).status_code == 200, "a place")


class TestAdmins:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("DELETE", "/v1/cache"),
            ("DELETE", "/cache"),
            ("POST", "/v1/models/load"),
            ("POST", "/v1/models/unload"),
            ("DELETE", "/v1/models/some/model"),
        ],
    )
    def test_alone_change_the_server(self, keyed: ServerProcess, method: str, path: str) -> None:
        for key in ("sk-plain", "sk-unnamed"):
            reply = keyed.send(method, path, **bearer(key))
            assert reply.status_code == 403
            assert (reply.json()["error"]["type"], reply.json()["error"]["code"]) == (
                "permission_error",
                "admin_key_required",
            )
        assert keyed.send(method, path, **bearer("sk-root")).status_code not in (401, 403)

    def test_are_not_needed_for_the_rest(self, keyed: ServerProcess) -> None:
        for path in ("/v1/models", "/v1/cache/stats", "/v1/queue/stats", "/metrics"):
            assert keyed.get(path, **bearer("sk-plain")).status_code == 200

    def test_are_nobody_where_no_key_is_one(self, never_loading: Path, start_server: StartServer) -> None:
        server = start_server("--model-path", never_loading, "--api-key", "sk-unnamed")
        assert server.send("DELETE", "/v1/cache", **bearer("sk-unnamed")).status_code == 200
        server.process.kill()


def test_nothing_of_what_is_refused_reaches_a_worker(keyed: ServerProcess) -> None:
    before = work_done(keyed)
    plain = bearer("sk-plain")
    statuses = [
        keyed.post(chat(), **bearer("sk-nobody")).status_code,
        keyed.post(chat()).status_code,
        keyed.send("DELETE", "/v1/cache", **plain).status_code,
        keyed.send("POST", CHAT, b"{", **plain).status_code,
        keyed.post(chat(temperature=3), **plain).status_code,
        keyed.post({"input": [{"type": "nothing"}]}, "/v1/responses", **plain).status_code,
        keyed.post({"messages": []}, MESSAGES, **plain).status_code,
        keyed.post(chat(), "/v1/nothing", **plain).status_code,
        keyed.send("PUT", CHAT, b"", **plain).status_code,
    ]
    assert statuses == [401, 401, 403, 400, 400, 400, 400, 404, 405]
    assert work_done(keyed) == before
    assert keyed.post(chat(), **plain).status_code == 200
    seen, counts = work_done(keyed)
    assert (seen, counts["completed_requests"]) == (before[0] + 1, before[1]["completed_requests"] + 1)


def test_the_metrics_have_names_and_no_keys(keyed: ServerProcess) -> None:
    usage = keyed.post(chat(), **bearer("sk-plain")).json()["usage"]
    keyed.post(chat(), **bearer("sk-nobody"))
    line = 'mlx_server_key_tokens_total{key="plain"} '
    eventually(lambda: line in keyed.get("/metrics", **bearer("sk-plain")).text, "the key's tokens")
    text = keyed.get("/metrics", **bearer("sk-plain")).text
    assert f'mlx_server_http_requests_total{{method="POST",route="{CHAT}",status="401"}}' in text
    assert int(text.partition(line)[2].split()[0]) >= usage["total_tokens"]
    assert "sk-" not in text


def test_the_log_has_names_and_no_keys(keyed: ServerProcess) -> None:
    for key in ("sk-plain", "sk-unnamed", "sk-root", "sk-nobody"):
        keyed.get("/v1/models", **bearer(key))
    eventually(lambda: " key=root " in keyed.log(), "the lines")
    log = keyed.log()
    for name in ("plain", "api_key#1", "root"):
        assert f" key={name}" in log
    assert "sk-" not in log


def test_https(tiny_model: Path, tmp_path: Path) -> None:
    files = ("-keyout", "server.key", "-out", "server.crt", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *names)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    class SecureServer(ServerProcess):
        def _find_port(self) -> bool:
            self.url = next((word for word in self.log().split() if word.startswith("https://127.0.0.1:")), "")
            return bool(self.url)

    certificate = ("--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key")
    trusted = ssl.create_default_context(cafile=tmp_path / "server.crt")
    with (
        SecureServer(tmp_path, "--model-path", tiny_model, *certificate) as server,
        httpx.Client(verify=trusted) as client,
    ):
        assert client.get(f"{server.url}/health/live").json() == {"status": "ok"}
        with pytest.raises(httpx.TransportError):
            client.get(f"http://{server.url.removeprefix('https://')}/health/live")
        # The command that sets clients up finds it, by the same settings.
        port, files = server.url.rpartition(":")[2], {"SSL_CERTFILE": "server.crt", "SSL_KEYFILE": "server.key"}
        command = (sys.executable, "-m", "app.cli", "connect", "opencode")
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": port, "SSL_CERT_FILE": "server.crt", **files}
        shown = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
        assert f"https://127.0.0.1:{port}/v1" in shown.stdout
