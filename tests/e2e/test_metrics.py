"""What a running server measures, and tells in /metrics, in the queue's figures and in its log."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, Call, chat, endless

MODEL = "tiny/llama"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: ServerProcess, **headers: str) -> Samples:
    reply = server.get("/metrics", **headers)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(reply.text))
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"mlx_server_{name}", frozenset(labels.items())), 0)


def of_model(samples: Samples, name: str, **labels: str) -> float:
    return value(samples, f"model_{name}", model=MODEL, **labels)


def test_a_request_is_counted_everywhere(server: ServerProcess) -> None:
    server.wait_until_idle()
    before = scrape(server)
    prompt = "a prompt that only this test sends, and sends twice"
    _, usage = [server.post(chat(prompt, max_tokens=9, logit_bias={"2": -100})).json()["usage"] for _ in range(2)]
    with Call(server, endless(max_tokens=70)) as call:
        list(call.events())
    eventually(lambda: of_model(scrape(server), "prompts_total") == of_model(before, "prompts_total") + 3, "counts")
    after = scrape(server)

    def more(name: str, **labels: str) -> float:
        return of_model(after, name, **labels) - of_model(before, name, **labels)

    assert more("generated_tokens_total") == 9 + 9 + 70
    assert more("prompt_tokens_total") >= 2 * usage["prompt_tokens"]
    assert more("cached_prompt_tokens_total") >= usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert more("prefix_cache_hits_total") >= 1
    for name in ("request_duration_seconds", "queue_wait_seconds", "time_to_first_token_seconds"):
        assert more(f"{name}_count") == more(f"{name}_bucket", le="+Inf") == 3
    assert more("inter_token_latency_seconds_count") >= 3
    assert more("requests_total", outcome="completed") >= 3
    labels = {"method": "POST", "route": CHAT, "status": "200"}
    assert value(after, "http_requests_total", **labels) == value(before, "http_requests_total", **labels) + 3
    assert value(after, "http_request_duration_seconds_count", route=CHAT) >= 3


def test_the_model_and_its_worker_are_described(server: ServerProcess) -> None:
    samples = scrape(server)
    assert of_model(samples, "state", state="ready") == 1
    assert sum(number for (name, _), number in samples.items() if name == "mlx_server_model_state") == 1
    assert of_model(samples, "loads_total") == 1
    assert of_model(samples, "slots") == 16
    assert of_model(samples, "load_seconds") > 0
    assert value(samples, "worker_restarts_total", model=MODEL) == 0
    assert value(samples, "worker_resident_memory_bytes", model=MODEL) > 50e6


def test_running_and_waiting_requests_show(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model, "--served-model-name", MODEL, "--max-concurrency", 1)
    server.wait_until_ready()
    with Call(server, endless()) as first, Call(server, endless()):
        first.read_until_text()
        server.wait_for_load(active=1, waiting=1)
        samples = scrape(server)
        assert (of_model(samples, "requests_running"), of_model(samples, "requests_waiting")) == (1, 1)
    server.wait_until_idle()
    samples = scrape(server)
    assert (of_model(samples, "requests_running"), of_model(samples, "requests_waiting")) == (0, 0)
    # Both clients hung up: what one had got by then is counted, the other one's prompt never reached the worker.
    assert of_model(samples, "generated_tokens_total") > 0
    assert of_model(samples, "prompts_total") == 1
    assert value(samples, "http_requests_total", method="POST", route=CHAT, status="499") == 2


def test_what_clients_send_names_no_series(server: ServerProcess) -> None:
    server.get("/nothing/of-a-client")
    server.send("PROPFIND", "/coffee-of-a-client")
    server.get("/v1/models/model-of-a-client")
    server.post(chat(model="any-name-of-a-client", user="of-a-client"))
    server.get("/health", **{"X-Request-ID": "id-of-a-client"})
    text = server.get("/metrics").text
    assert "of-a-client" not in text
    assert "PROPFIND" not in text
    samples = scrape(server)
    assert value(samples, "http_requests_total", method="GET", route="other", status="404") >= 1
    assert value(samples, "http_requests_total", method="other", route="other", status="404") >= 1


def test_responses_in_the_background_are_counted_when_they_are_done(server: ServerProcess) -> None:
    def generated() -> float:
        return of_model(scrape(server), "generated_tokens_total")

    before = generated()
    body = {"input": "the quick brown fox", "background": True, "max_output_tokens": 20}
    path = f"/v1/responses/{server.post(body, '/v1/responses').json()['id']}"
    eventually(lambda: server.get(path).json()["status"] in ("completed", "incomplete"), "its end")
    usage = server.get(path).json()["usage"]
    assert usage["output_tokens"] > 0
    eventually(lambda: generated() == before + usage["output_tokens"], "its tokens")


def test_the_queue_tells_percentiles(server: ServerProcess) -> None:
    # The window of recent requests may be full: its number tells nothing then.
    before = server.stats()["completed_requests"]
    server.post(chat(max_tokens=12, logit_bias={"2": -100}))
    eventually(lambda: server.stats()["completed_requests"] > before, "the request")
    for stats in (server.stats(), server.stats(MODEL)):
        recent = stats["recent"]
        for figure in ("duration_s", "ttft_s", "tokens_per_s"):
            assert 0 < recent[figure]["p50"] <= recent[figure]["p95"]
        assert recent["queue_wait_s"]["p50"] >= 0


@pytest.mark.parametrize("is_open", [True, False])
def test_a_key_is_needed_unless_it_is_not(never_loading: Path, start_server: StartServer, is_open: bool) -> None:
    arguments = ("--model-path", never_loading, "--api-key", "secret", *(["--open-metrics"] if is_open else []))
    server = start_server(*arguments)
    assert server.get("/metrics").status_code == (200 if is_open else 401)
    assert server.get("/metrics", **{"x-api-key": "secret"}).status_code == 200
    assert server.get("/v1/models").status_code == 401
    server.process.kill()


def test_json_logs_have_a_line_of_fields_for_a_request(tiny_model: Path, start_server: StartServer) -> None:
    server = start_server("--model-path", tiny_model, "--served-model-name", MODEL, "--log-json", "--api-key", "secret")
    server.wait_until_ready()
    content = json.dumps(chat("braces {} and {0}", max_tokens=9, logit_bias={"2": -100})).encode()
    headers = {"x-api-key": "secret", "X-Request-ID": "mine"}
    reply = server.send("POST", CHAT, content, **headers)
    server.send("POST", "/v1/nothing{x}", b"", **headers)
    eventually(lambda: server.log().count('"request_id":"mine"') == 2, "the lines")
    first, second = (json.loads(line) for line in re.findall(r'^{.*"request_id":"mine".*$', server.log(), re.MULTILINE))
    usage = reply.json()["usage"]
    expected = {
        "level": "INFO",
        "request_id": "mine",
        "key": "api_key#1",
        "model": MODEL,
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "request_bytes": len(content),
        "response_bytes": len(reply.content),
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": 0,
        "generated_tokens": 9,
    }
    assert {name: first[name] for name in expected} == expected
    assert 0 < first["queue_wait_s"] <= first["ttft_s"] <= first["duration_s"]
    assert first["tokens_per_s"] > 0
    assert (second["route"], second["status"], second["error"]) == ("other", 404, "not_found")
    assert "/v1/nothing{x}" in second["message"]
    assert "secret" not in server.log()
