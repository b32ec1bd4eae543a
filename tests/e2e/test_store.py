"""What is stored outlives the server, however it ends."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAIError

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import END_TOKEN, Call

RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
NUM_CLIENTS = 100


@pytest.fixture
def lasting(tiny_model: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose store can be looked at by the next one."""
    folder = tmp_path / "lasting"
    folder.mkdir()
    arguments = ("--model-path", tiny_model, "--store-path", tmp_path / "store.sqlite3", "--shutdown-timeout", 1)
    with ServerProcess(folder, *arguments, "--no-mlx-warmup", "--queue-size", 200) as running:
        yield running.wait_until_ready()


def restarted(server: ServerProcess) -> ServerProcess:
    """The same server again, after its end."""
    server.port = 0
    server.start()
    return server.wait_until_ready()


def ask(server: ServerProcess, **fields: object) -> dict[str, Any]:
    return server.post({"input": "hello", "max_output_tokens": 5, "temperature": 0} | fields, RESPONSES).json()


def endless(**fields: object) -> dict[str, Any]:
    return {"input": "hello", "max_output_tokens": 120_000, "logit_bias": {str(END_TOKEN): -100}} | fields


def get(server: ServerProcess, path: str) -> Any:
    return server.get(path).json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_said_is_there_after_the_end(lasting: ServerProcess, number: int) -> None:
    first = ask(lasting)
    conversation = lasting.post({"metadata": {"k": "v"}}, CONVERSATIONS).json()
    second = ask(lasting, conversation=conversation["id"], stream=False)
    items = get(lasting, f"{CONVERSATIONS}/{conversation['id']}/items")
    lasting.signal(number)
    lasting.wait()
    restarted(lasting)
    assert get(lasting, f"{RESPONSES}/{first['id']}") == first
    assert get(lasting, f"{RESPONSES}/{second['id']}") == second
    assert get(lasting, f"{CONVERSATIONS}/{conversation['id']}") == conversation
    assert get(lasting, f"{CONVERSATIONS}/{conversation['id']}/items") == items
    assert ask(lasting, previous_response_id=first["id"])["usage"]["input_tokens"] > first["usage"]["input_tokens"]


async def test_no_response_is_lost_or_broken_when_the_server_is_killed(lasting: ServerProcess) -> None:
    """Of a hundred clients that each ask again and again, every response that one has seen the end of is there."""
    seen: list[dict[str, Any]] = []
    begun: list[str] = []
    is_enough = asyncio.Event()

    async def keep_asking(client: AsyncOpenAI, number: int) -> None:
        asked: dict[str, Any] = {"model": "x", "input": f"hello {number}", "max_output_tokens": 3}
        try:
            while True:
                if number % 2:
                    reply = await client.responses.create(**asked)
                    seen.append(reply.to_dict())
                    if len(seen) > NUM_CLIENTS:
                        is_enough.set()
                    continue
                async for event in await client.responses.create(**asked, stream=True):
                    if event.type == "response.created":
                        begun.append(event.response.id)
                    if event.type == "response.incomplete":
                        seen.append(event.response.to_dict())
        except OpenAIError:
            return

    async with AsyncOpenAI(base_url=f"{lasting.url}/v1", api_key="none", max_retries=0) as client:
        asking = [asyncio.create_task(keep_asking(client, number)) for number in range(NUM_CLIENTS)]
        await is_enough.wait()
        lasting.signal(signal.SIGKILL)
        await asyncio.gather(*asking, return_exceptions=True)
    assert lasting.wait() == -signal.SIGKILL
    restarted(lasting)
    for reply in seen:
        assert get(lasting, f"{RESPONSES}/{reply['id']}") == reply
        (item,) = get(lasting, f"{RESPONSES}/{reply['id']}/input_items")["data"]
        assert item["content"][0]["text"].startswith("hello ")
    # Whatever else is there is whole, too: what nobody had seen the end of may have ended or not.
    statuses = [get(lasting, f"{RESPONSES}/{response_id}").get("status", "none") for response_id in begun]
    assert set(statuses) <= {"incomplete", "failed", "none"}
    assert len(begun) > 0


def test_responses_that_were_not_done_have_failed(lasting: ServerProcess) -> None:
    background = lasting.post(endless(background=True), RESPONSES).json()
    with Call(lasting, endless(stream=True), RESPONSES) as call:
        streamed = next(call.chunks())["response"]
        lasting.wait_for_load(active=2, waiting=0)
        next(event for event in call.chunks() if event["type"] == "response.output_text.delta")
        lasting.signal(signal.SIGKILL)
        lasting.wait()
    restarted(lasting)
    for response in (background, streamed):
        shown = get(lasting, f"{RESPONSES}/{response['id']}")
        assert (shown["status"], shown["error"]["code"]) == ("failed", "server_error")
        assert "ended" in shown["error"]["message"]
    cancelled = lasting.send("POST", f"{RESPONSES}/{background['id']}/cancel").json()
    assert cancelled["status"] == "failed"
    continued = ask(lasting, previous_response_id=background["id"])
    assert continued["status"] == "incomplete"


def test_work_in_the_background_ends_with_the_server(lasting: ServerProcess) -> None:
    response = lasting.post(endless(background=True), RESPONSES).json()
    lasting.wait_for_load(active=1, waiting=0)
    lasting.signal(signal.SIGTERM)
    assert lasting.wait() == 0
    assert "Traceback" not in lasting.log()
    restarted(lasting)
    shown = get(lasting, f"{RESPONSES}/{response['id']}")
    assert shown["status"] == "failed"
    assert shown["error"]["message"] == "The server was stopped; try again later."


def test_what_expires_becomes_a_file(tiny_model: Path, start_server: StartServer, tmp_path: Path) -> None:
    logs = tmp_path / "conversation_logs"
    arguments = ("--store-in-memory", "--store-ttl", 0.3, "--conversation-logs-dir", logs)
    server = start_server("--model-path", tiny_model, *arguments).wait_until_ready()
    response = ask(server)
    eventually(lambda: list(logs.glob("*.json")), "the file")
    assert server.get(f"{RESPONSES}/{response['id']}").status_code == 404
    (path,) = logs.iterdir()
    written = json.loads(path.read_bytes())
    assert (path.stem, written["kind"], written["object"]) == (response["id"], "response", response)
    assert [part["kind"] for part in written["parts"]] == ["response.input", "response.output"]


def test_second_server_says_that_it_keeps_nothing(tiny_model: Path, tmp_path: Path) -> None:
    shared = {"HOME": str(tmp_path)}
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    for folder in (first_folder, second_folder):
        folder.mkdir()
    with (
        ServerProcess(first_folder, "--model-path", tiny_model, environment=shared) as first,
        ServerProcess(second_folder, "--model-path", tiny_model, environment=shared) as second,
    ):
        assert "in use" not in first.log()
        assert "in use by another server" in second.log()
        response = ask(second.wait_until_ready())
        assert get(second, f"{RESPONSES}/{response['id']}") == response
        assert first.get(f"{RESPONSES}/{response['id']}").status_code == 404


def test_store_that_cannot_be_opened_is_said_in_one_sentence(
    tiny_model: Path, start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"not a database, " * 100)
    server = start_server("--model-path", tiny_model, "--store-path", path)
    assert server.wait() == 1
    sentence = "is broken (file is not a database): delete it, or give another with --store-path"
    assert server.log() == f"mlx-openai-server: the store {path} {sentence}.\n"
    assert path.read_bytes() == b"not a database, " * 100
