"""Traces as a collector gets them: real spans over OTLP, from a real server."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import Call, chat, endless
from tests.fixtures.collector import Collector, Taken

MODEL = "tiny"
KEY = "sk-secret-of-alice"
PARENT = "b7ad6b7169203331"
SECRET = "a word that nobody else says"
PHASES = ["queue", "prefill", "decode"]
# Sent at once, and not after five seconds.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def server(tiny_model: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = ("--model-path", tiny_model, "--served-model-name", MODEL, "--api-key", KEY)
    environment = SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with ServerProcess(tmp_path_factory.mktemp("traced"), *arguments, environment=environment) as running:
        yield running.wait_until_ready()


def trace_of(number: int) -> str:
    return f"{number:032x}"


def headers(number: int, flags: str = "01") -> dict[str, str]:
    return {"x-api-key": KEY, "traceparent": f"00-{trace_of(number)}-{PARENT}-{flags}"}


def spans_of(collector: Collector, number: int, count: int) -> tuple[Taken, list[Taken]]:
    """The span of the only request of a trace, and those below it in the order of their starts."""

    def found() -> list[Taken]:
        return [one for one in collector.spans if one.span.trace_id.hex() == trace_of(number)]

    eventually(lambda: len(found()) >= count, f"{count} spans of trace {number}")
    spans = sorted(found(), key=lambda one: one.span.start_time_unix_nano)
    assert len(spans) == count
    (root,) = [one for one in spans if one.span.parent_span_id.hex() == PARENT]
    return root, [one for one in spans if one is not root]


def test_a_chat_is_a_part_of_its_clients_trace(server: ServerProcess, collector: Collector) -> None:
    reply = server.post(chat(SECRET, model=MODEL, max_tokens=5), **headers(1))
    assert reply.status_code == 200
    usage = reply.json()["usage"]
    root, phases = spans_of(collector, 1, 4)
    assert root.name == "POST /v1/chat/completions"
    assert root.span.kind == root.span.SPAN_KIND_SERVER
    assert root.service["service.name"] == "mlx-openai-server"
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mlx",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": [reply.json()["choices"][0]["finish_reason"]],
    }
    assert [one.name for one in phases] == PHASES
    assert {one.span.parent_span_id for one in phases} == {root.span.span_id}
    queue, prefill, decode = phases
    assert root.span.start_time_unix_nano <= queue.span.start_time_unix_nano + 5_000_000
    assert queue.span.end_time_unix_nano == prefill.span.start_time_unix_nano
    assert prefill.span.end_time_unix_nano == decode.span.start_time_unix_nano
    assert 0 < queue.duration_s + prefill.duration_s + decode.duration_s <= root.duration_s + 0.005


def test_a_stream_that_fails_and_one_that_is_left(server: ServerProcess, collector: Collector) -> None:
    refused = server.post(chat(model=MODEL, max_tokens=-1), **headers(2))
    assert refused.status_code == 400
    root, phases = spans_of(collector, 2, 1)
    assert (root.attributes["http.response.status_code"], phases) == (400, [])
    # The client's fault is not the server's.
    assert root.span.status.code == Status.STATUS_CODE_UNSET
    with Call(server, endless(model=MODEL), headers=headers(3)) as stream:
        stream.read_until_text()
        stream.hang_up()
    root, phases = spans_of(collector, 3, 4)
    assert [one.name for one in phases] == PHASES
    assert root.attributes["gen_ai.usage.output_tokens"] > 0
    assert "gen_ai.response.finish_reasons" not in root.attributes


def test_a_stream_whose_worker_dies(server: ServerProcess, collector: Collector) -> None:
    with Call(server, endless(model=MODEL), headers=headers(10)) as stream:
        stream.read_until_text()
        os.kill(server.worker_of(MODEL), signal.SIGKILL)
        assert "model_unavailable" in list(stream.events())[-1]
    root, phases = spans_of(collector, 10, 4)
    assert [one.name for one in phases] == PHASES
    assert (root.attributes["http.response.status_code"], root.attributes["error.type"]) == (200, "model_unavailable")
    assert root.span.status.code == Status.STATUS_CODE_ERROR
    server.wait_until_ready()


def test_work_in_the_background_is_in_the_trace_of_its_request(server: ServerProcess, collector: Collector) -> None:
    body = {"model": MODEL, "input": SECRET, "background": True, "max_output_tokens": 20}
    assert server.post(body, "/v1/responses", **headers(4)).status_code == 200
    root, others = spans_of(collector, 4, 5)
    assert root.name == "POST /v1/responses"
    assert "gen_ai.request.model" not in root.attributes
    (work,) = [one for one in others if one.span.parent_span_id == root.span.span_id]
    assert work.name == f"chat {MODEL}"
    assert 0 < work.attributes["gen_ai.usage.output_tokens"] <= 20
    assert {one.name for one in others if one.span.parent_span_id == work.span.span_id} == set(PHASES)


def test_what_is_no_work_of_a_model(server: ServerProcess, collector: Collector) -> None:
    assert server.get(f"/{SECRET}", **headers(5)).status_code == 404
    root, _ = spans_of(collector, 5, 1)
    assert (root.name, "http.route" in root.attributes) == ("GET", False)
    # A trace that its client does not want to be recorded, and what is asked for all the time.
    assert server.post(chat(model=MODEL), **headers(6, flags="00")).status_code == 200
    assert server.get("/health", **headers(7)).status_code == 200
    assert server.get("/v1/models", **headers(8)).status_code == 200
    spans_of(collector, 8, 1)
    traces = {one.span.trace_id.hex() for one in collector.spans}
    assert traces.isdisjoint({trace_of(6), trace_of(7)})


def test_nothing_of_prompts_and_keys_is_sent(server: ServerProcess, collector: Collector) -> None:
    reply = server.post(chat(SECRET, model=MODEL, max_tokens=30), **headers(9))
    spans_of(collector, 9, 4)
    answer = reply.json()["choices"][0]["message"]["content"]
    sent = b"".join(collector.bodies)
    assert len(answer) > 10
    assert set(collector.paths) == {"/v1/traces"}
    for text in (SECRET, KEY, answer):
        assert text.encode() not in sent


def test_the_last_spans_come_before_the_end(tiny_model: Path, start_server: StartServer) -> None:
    with Collector() as collector:
        arguments = ("--model-path", tiny_model, "--served-model-name", MODEL, "--otlp-endpoint", f"{collector.url}/")
        environment = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,team=a"}
        server = start_server(*arguments, environment=environment).wait_until_ready()
        assert server.post(chat()).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert {(one.service["service.name"], one.service["team"]) for one in collector.spans} == {("mine", "a")}
        assert {one.name for one in collector.spans} >= {"POST /v1/chat/completions", *PHASES}


def test_a_collector_that_is_not_there_is_one_warning(tiny_model: Path, start_server: StartServer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        environment = SOON | {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
        server = start_server("--model-path", tiny_model, "--otlp-endpoint", url, environment=environment)
        server.wait_until_ready()
        for _ in range(3):
            assert server.post(chat()).status_code == 200
            eventually(lambda: "takes no traces" in server.log(), "the warning")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log().count("takes no traces") == 1
    assert "opentelemetry" not in server.log().lower()
    assert "Traceback" not in server.log()
