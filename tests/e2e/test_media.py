"""Media in the requests of three protocols, sent to a server whose model takes text only."""

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic import BadRequestError as AnthropicRefusal
from openai import BadRequestError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.fixtures.pictures import encoded, picture

PICTURE = encoded(picture())
URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
LIMITS = ("--max-media", 2, "--max-media-bytes", "1MB", "--media-timeout", 5)


@pytest.fixture(scope="module")
def fetching(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that fetches URLs and reads files of one folder."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "x.png").write_bytes(PICTURE)
    (folder / "secret.png").write_bytes(PICTURE)
    own = ("--allow-remote-media", "--media-root", "pictures", *LIMITS)
    with ServerProcess(folder, "--model-path", tiny_model, *own) as running:
        yield running.wait_until_ready()


@pytest.fixture
def private_server() -> Iterator[tuple[int, list[str]]]:
    """The port of a web server of this machine, and which paths it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield web.server_port, paths
        web.shutdown()
        thread.join()


def chat_refusal(server: ServerProcess, *urls: str) -> tuple[str, str]:
    """What OpenAI's client is told in a chat: the place and the message."""
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(BadRequestError) as caught,
    ):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": parts}])
    return caught.value.param or "", str(caught.value.body)


def response_refusal(server: ServerProcess, url: str) -> tuple[str, str]:
    """The same of a response."""
    parts: list[Any] = [{"type": "input_image", "image_url": url, "detail": "auto"}]
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(BadRequestError) as caught,
    ):
        client.responses.create(model="any", input=[{"role": "user", "content": parts}])
    return caught.value.param or "", str(caught.value.body)


def message_refusal(server: ServerProcess, url: str) -> str:
    """What Anthropic's client is told."""
    block: Any = {"type": "image", "source": {"type": "url", "url": url}}
    with (
        Anthropic(base_url=server.url, api_key="none", max_retries=0) as client,
        pytest.raises(AnthropicRefusal) as caught,
    ):
        client.messages.create(model="any", max_tokens=1, messages=[{"role": "user", "content": [block]}])
    assert caught.value.type == "invalid_request_error"
    return caught.value.api_message or ""


def test_nothing_of_this_machine_is_fetched(fetching: ServerProcess, private_server: tuple[int, list[str]]) -> None:
    port, paths = private_server
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
        url = f"http://{host}:{port}/x.png"
        said = [chat_refusal(fetching, url), response_refusal(fetching, url), ("", message_refusal(fetching, url))]
        places = ["messages[0].content[0].image_url", "input[0].content[0].image_url", ""]
        assert [place for place, _ in said] == places
        assert all("leads to an address that is not public" in message for _, message in said), said
    assert "'messages[0].content[0].source.url'" in message_refusal(fetching, f"http://127.0.0.1:{port}/")
    assert paths == []


def test_only_files_of_the_folder_are_read(fetching: ServerProcess) -> None:
    for path in ("../secret.png", f"file://{fetching.directory}/secret.png", "/etc/passwd", "missing.png"):
        assert "no file under" in chat_refusal(fetching, path)[1], path
    assert "no file under" not in chat_refusal(fetching, "x.png")[1]


def test_limits_are_those_of_the_settings(fetching: ServerProcess) -> None:
    assert "2 media at most" in chat_refusal(fetching, URL, URL, URL)[1]
    large = "data:image/png;base64," + "A" * 2_000_000
    place, message = chat_refusal(fetching, URL, large)
    assert (place, "more than 1000000 bytes" in message) == ("messages[0].content[1].image_url", True)


def test_a_server_fetches_nothing_unless_it_is_told_to(server: ServerProcess) -> None:
    assert "--allow-remote-media" in chat_refusal(server, "https://example.com/x.png")[1]
    assert "--media-root" in message_refusal(server, "file:///etc/passwd")


def test_a_model_that_sees_nothing_refuses_pictures(server: ServerProcess) -> None:
    for message in (chat_refusal(server, URL)[1], response_refusal(server, URL)[1], message_refusal(server, URL)):
        assert "text only" in message
    assert server.post({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}).status_code == 200
