"""A disk that takes no more: the server goes on, and says what it could not keep."""

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import chat

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="limits of other processes can be set on Linux only")

RESPONSES = "/v1/responses"


def fill(pid: int) -> None:
    """From now on no file of the process grows."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def free(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def answer(server: ServerProcess, text: str) -> dict[str, Any]:
    reply = server.post({"input": text, "max_output_tokens": 5, "temperature": 0}, RESPONSES)
    assert reply.status_code == 200
    return reply.json()


def test_answers_that_cannot_be_stored_are_given_all_the_same(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model).wait_until_ready()
    kept = answer(server, "hello")
    fill(server.pid)
    lost = answer(server, "hello")
    assert lost["output"][0]["content"] == kept["output"][0]["content"]
    assert lost["store"] is False
    refused = server.post({"metadata": {}}, "/v1/conversations")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert server.get("/health").status_code == 200
    free(server.pid)
    assert server.get(f"{RESPONSES}/{kept['id']}").status_code == 200
    assert server.get(f"{RESPONSES}/{lost['id']}").status_code == 404
    again = answer(server, "hello")
    assert server.get(f"{RESPONSES}/{again['id']}").status_code == 200


def test_prompts_that_cannot_be_kept_are_computed_again(
    tiny_model: Path, tmp_path: Path, start_server: StartServer
) -> None:
    arguments = ("--prompt-cache-dir", tmp_path / "prompts", "--prompt-cache-bytes", 1000, "--served-model-name", "a")
    server = start_server("--model-path", tiny_model, *arguments).wait_until_ready()
    expected = server.post(chat(model="a")).json()["choices"]
    fill(server.worker_of("a"))
    for text in ("one " * 300, "two " * 300, "three " * 300):
        assert server.post(chat(text, model="a")).status_code == 200
    assert server.post(chat(model="a")).json()["choices"] == expected
    assert server.log().count("any more") == 1
    assert server.stats("a")["worker_restarts"] == 0
