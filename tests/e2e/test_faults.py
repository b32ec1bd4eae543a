"""What goes wrong around a server: workers die, clients leave, lines are full, time is up. Nobody else may notice."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from openai import AsyncOpenAI

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import Call, chat, endless

# Read 16 tokens at a time, this takes seconds.
LONG_PROMPT = "the quick brown fox jumps over the lazy dog " * 400


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server of three models: `wide` runs 8 requests at once, `single` one, `brief` one and none for long."""

    server: ServerProcess

    def kill_wide(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.server.worker_of("wide"), number)


@pytest.fixture(scope="module")
def cluster(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    models = [
        {"served_model_name": "wide", "max_concurrency": 8, "prefill_step_size": 16, "worker_hang_timeout": 3},
        {"served_model_name": "single", "max_concurrency": 1, "queue_size": 2},
        {"served_model_name": "brief", "max_concurrency": 1, "queue_timeout": 0.3, "request_timeout": 2},
    ]
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [{"model_path": str(tiny_model), **model} for model in models]}))
    with ServerProcess(folder, "--config", path, "--heartbeat-interval", 0.1) as server:
        server.wait_until_ready()
        yield Cluster(server)


def assert_ends_with_error(call: Call, code: str) -> str:
    """The stream's last event is its only error; nothing pretends that the answer is complete. Gives the message."""
    events = list(call.events())
    assert "[DONE]" not in events
    *chunks, last = [json.loads(event) for event in events]
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert last["error"]["code"] == code
    assert last["request_id"] == call.header("X-Request-ID")
    message: str = last["error"]["message"]
    return message


class TestKilledWorker:
    @pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "did not answer")])
    def test_ends_its_streams_and_is_started_again(self, cluster: Cluster, number: int, cause: str) -> None:
        server = cluster.server
        before = server.stats("wide")
        with ExitStack() as stack:
            other = stack.enter_context(Call(server, endless(model="single"))).read_until_text()
            victims = [stack.enter_context(Call(server, endless(model="wide", seed=seed))) for seed in range(8)]
            for victim in victims:
                victim.read_until_text()
            cluster.kill_wide(number)
            for victim in victims:
                assert cause in assert_ends_with_error(victim, "model_unavailable")
            eventually(lambda: server.get("/health").status_code == 503, "the death shows in /health")
            health = server.get("/health").json()
            assert health["models"]["wide"]["status"] == "restarting"
            assert cause in health["reason"]
            assert health["models"]["single"] == {"status": "initialized", "reason": None}
            assert server.post(chat(model="wide")).status_code == 200
            other.read_until_text()
        assert server.get("/health").status_code == 200
        after = server.stats("wide")
        assert after["worker_restarts"] == before["worker_restarts"] + 1
        assert after["failed_requests"] == before["failed_requests"] + 8
        server.wait_until_idle()

    def test_fails_its_unary_requests_and_serves_those_that_wait(self, cluster: Cluster) -> None:
        server = cluster.server
        with ExitStack() as stack:
            victims = [stack.enter_context(Call(server, endless(model="wide", stream=False))) for _ in range(8)]
            server.wait_for_load(active=8, waiting=0, model="wide")
            waiting = [stack.enter_context(Call(server, chat(model="wide"))) for _ in range(3)]
            server.wait_for_load(active=8, waiting=3, model="wide")
            cluster.kill_wide()
            for victim in victims:
                assert victim.status == 503
                assert int(victim.header("Retry-After") or 0) >= 1
                assert victim.json()["error"]["code"] == "model_unavailable"
            assert [call.status for call in waiting] == [200, 200, 200]
        server.wait_until_idle()


class TestClientGone:
    @pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
    @pytest.mark.parametrize("state", ["decoding", "prefilling", "unary", "before-reading"])
    def test_while_running(self, cluster: Cluster, state: str, abruptly: bool) -> None:
        server = cluster.server
        body = endless(LONG_PROMPT if state == "prefilling" else "hello", model="wide", stream=state != "unary")
        before = server.stats("wide")["cancelled_requests"]
        with Call(server, endless(model="wide")) as neighbour, Call(server, body) as leaving:
            neighbour.read_until_text()
            match state:
                case "decoding":
                    leaving.read_until_text()
                case "prefilling":
                    assert next(leaving.chunks())["choices"][0]["delta"]["role"] == "assistant"
                case _:
                    server.wait_for_load(active=2, waiting=0, model="wide")
            leaving.hang_up(abruptly=abruptly)
            server.wait_for_load(active=1, waiting=0, model="wide")
            neighbour.read_until_text()
        server.wait_until_idle()
        assert server.stats("wide")["cancelled_requests"] == before + 2

    @pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
    def test_while_waiting(self, cluster: Cluster, streams: bool) -> None:
        server = cluster.server
        with (
            Call(server, endless(model="single")) as holder,
            Call(server, chat(model="single", stream=streams)) as leaving,
            Call(server, chat(model="single")) as staying,
        ):
            server.wait_for_load(active=1, waiting=2, model="single")
            leaving.hang_up()
            server.wait_for_load(active=1, waiting=1, model="single")
            holder.read_until_text()
            holder.hang_up()
            assert staying.status == 200
        server.wait_until_idle()

    def test_in_any_mixture(self, cluster: Cluster) -> None:
        server = cluster.server
        expected = server.post(chat(model="wide", max_tokens=32)).json()["choices"][0]["message"]["content"]
        draw = random.Random(7)
        calls: list[Call] = []
        long_ones: list[Call] = []
        for _ in range(100):
            text = draw.choice([LONG_PROMPT, *["hello"] * 7])
            stream = draw.random() < 0.7
            calls.append(Call(server, endless(text, model="wide", stream=stream, seed=draw.randrange(9))))
            if text == LONG_PROMPT:
                long_ones.append(calls[-1])
            elif stream and len(calls) < 8 and not any(call in calls for call in long_ones):
                calls[-1].read_until_text()
            while len(calls) > 12 or (calls and draw.random() < 0.4):
                calls.pop(draw.randrange(len(calls))).hang_up(abruptly=draw.random() < 0.5)
        for call in calls:
            call.hang_up()
        server.wait_until_idle()
        assert server.post(chat(model="wide", max_tokens=32)).json()["choices"][0]["message"]["content"] == expected


def test_silence_is_filled_with_comments(cluster: Cluster) -> None:
    """A long prompt is read for seconds: proxies and clients see that the stream lives."""
    with Call(cluster.server, endless(LONG_PROMPT, model="wide", max_tokens=1)) as call:
        lines = call.response.read().split(b"\n\n")
    first_text = next(index for index, line in enumerate(lines) if b'"content":' in line and b'"role"' not in line)
    assert b": keep-alive" in lines[:first_text]
    assert set(lines[1:first_text]) == {b": keep-alive"}
    assert lines[-2] == b"data: [DONE]"


class TestLimits:
    @pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
    def test_full_line_turns_away(self, cluster: Cluster, streams: bool) -> None:
        server = cluster.server
        before = server.stats("single")["rejected_requests"]
        with ExitStack() as stack:
            holder = stack.enter_context(Call(server, endless(model="single")))
            waiting = [stack.enter_context(Call(server, chat(model="single"))) for _ in range(2)]
            server.wait_for_load(active=1, waiting=2, model="single")
            refused = server.post(chat(model="single", stream=streams))
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
            holder.hang_up()
            assert [call.status for call in waiting] == [200, 200]
        assert server.stats("single")["rejected_requests"] == before + 1
        server.wait_until_idle()

    def test_long_wait_ends(self, cluster: Cluster) -> None:
        server = cluster.server
        before = server.stats("brief")["timed_out_requests"]
        with Call(server, endless(model="brief")) as holder:
            holder.read_until_text()
            refused = server.post(chat(model="brief"))
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["code"] == "queue_timeout"
        assert server.stats("brief")["timed_out_requests"] == before + 1
        server.wait_until_idle()

    def test_long_request_ends_and_so_does_its_generation(self, cluster: Cluster) -> None:
        server = cluster.server
        with Call(server, endless(model="brief")) as stream:
            assert "2 s" in assert_ends_with_error(stream.read_until_text(), "request_timeout")
        server.wait_until_idle()
        reply = server.post(endless(model="brief", stream=False))
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "request_timeout"
        server.wait_until_idle()
        assert server.post(chat(model="brief")).status_code == 200

    def test_client_that_does_not_read_holds_no_slot_for_ever(
        self, tiny_model: Path, start_server: StartServer
    ) -> None:
        arguments = ("--model-path", tiny_model, "--max-concurrency", 1, "--request-timeout", 2)
        server = start_server(*arguments).wait_until_ready()
        # The name is in every chunk: the buffers on the way are full after a few.
        with Call(server, endless(model="x" * 200_000)):
            server.wait_for_load(active=1, waiting=0)
            server.wait_for_load(active=0, waiting=0)
            assert server.post(chat()).status_code == 200
        server.wait_until_idle()

    async def test_sixty_four_at_once_get_what_each_gets_alone(self, cluster: Cluster) -> None:
        async with AsyncOpenAI(
            base_url=f"{cluster.server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:

            async def answer(number: int) -> str | None:
                reply = await client.chat.completions.create(
                    model="wide",
                    messages=[{"role": "user", "content": f"the lazy dog {'and a fox ' * (number % 9)}{number}"}],
                    temperature=0,
                    max_tokens=4 + number % 5,
                )
                return reply.choices[0].message.content

            alone = [await answer(number) for number in range(64)]
            together = await asyncio.gather(*(answer(number) for number in range(64)))
        assert together == alone
        assert len(set(alone)) > 32
        cluster.server.wait_until_idle()
