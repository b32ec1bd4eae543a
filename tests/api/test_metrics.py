"""The text of GET /metrics, and the percentiles of GET /v1/queue/stats."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import metrics_text
from app.api.recent import summarised
from app.core.events import Finished, Started, TextDelta, Usage
from app.core.metrics import Figures, Metrics
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.settings import ModelSpec

NAMES = ["plain", 'quote" back\\slash\nnewline {x="y"} é', *(f"owner/model-{number}" for number in range(18))]


def sample(text: str, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(text)
    (value,) = [one.value for family in families for one in family.samples if one.name == name and one.labels == labels]
    return value


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Twenty models, none of which is started."""
    return Registry(tuple(ModelSpec(model_path=name) for name in NAMES), tmp_path)


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    for name in NAMES:
        record = RequestRecord("test", model=name, waited_s=0.3)
        record.note([Started(10, 4), TextDelta("a")])
        record.note([TextDelta("b")])
        record.note([Finished(Usage(10, 6, 4))])
        record.end()
        metrics.take_work(record)
    metrics.take_reply("POST", "/v1/chat/completions", 200, 0.3)
    metrics.take_reply("POST", "/v1/chat/completions", 503, 700.0)
    return metrics


def test_every_line_is_of_the_format(registry: Registry, metrics: Metrics) -> None:
    text = metrics_text(metrics, registry.models)
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families) == text.count("# TYPE ")
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)
    num_lines = sum(not line.startswith("#") for line in text.splitlines())
    assert sum(len(family.samples) for family in families) == num_lines > 1500


@pytest.mark.parametrize("model", NAMES[:3])
def test_models_have_their_numbers(registry: Registry, metrics: Metrics, model: str) -> None:
    text = metrics_text(metrics, registry.models)
    for name, value in (
        ("prompt_tokens_total", 10),
        ("cached_prompt_tokens_total", 4),
        ("generated_tokens_total", 6),
        ("prompts_total", 1),
        ("prefix_cache_hits_total", 1),
        ("time_to_first_token_seconds_count", 1),
        ("inter_token_latency_seconds_count", 1),
        ("request_duration_seconds_count", 1),
        ("queue_wait_seconds_sum", 0.3),
        ("queue_size", 100),
        ("requests_running", 0),
        ("loads_total", 0),
    ):
        assert sample(text, f"mlx_server_model_{name}", model=model) == value
    assert sample(text, "mlx_server_model_queue_wait_seconds_bucket", model=model, le="0.25") == 0
    assert sample(text, "mlx_server_model_queue_wait_seconds_bucket", model=model, le="0.5") == 1
    assert sample(text, "mlx_server_model_requests_total", model=model, outcome="rejected") == 0
    assert sample(text, "mlx_server_model_state", model=model, state="loading") == 1
    assert sample(text, "mlx_server_model_state", model=model, state="ready") == 0
    assert sample(text, "mlx_server_worker_restarts_total", model=model) == 0


def test_replies_have_their_routes(registry: Registry, metrics: Metrics) -> None:
    text = metrics_text(metrics, registry.models)
    route = "/v1/chat/completions"
    for status in ("200", "503"):
        assert sample(text, "mlx_server_http_requests_total", method="POST", route=route, status=status) == 1
    duration = "mlx_server_http_request_duration_seconds"
    assert sample(text, f"{duration}_bucket", route=route, le="600.0") == 1
    assert sample(text, f"{duration}_bucket", route=route, le="+Inf") == 2
    assert sample(text, f"{duration}_sum", route=route) == pytest.approx(700.3)


def test_a_model_that_did_nothing_yet_has_zeros(registry: Registry) -> None:
    text = metrics_text(Metrics(), registry.models)
    assert sample(text, "mlx_server_model_generated_tokens_total", model="plain") == 0
    assert sample(text, "mlx_server_model_time_to_first_token_seconds_bucket", model="plain", le="+Inf") == 0
    assert sample(text, "process_resident_memory_bytes") > 1e6


def test_the_dashboard_shows_only_what_there_is(registry: Registry, metrics: Metrics) -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "docs/grafana.json").read_text())
    families = list(text_string_to_metric_families(metrics_text(metrics, registry.models)))
    labels = {family.name: {*(name for one in family.samples for name in one.labels)} for family in families}
    names = {one.name: family.name for family in families for one in family.samples}
    # Of models that run: none of this test's does.
    for name in ("mlx_server_model_load_seconds", "mlx_server_worker_resident_memory_bytes"):
        names[name], labels[name] = name, {"model"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in expressions + [variable["query"] for variable in dashboard["templating"]["list"][1:]]:
        used = re.findall(r"\b(?:mlx_server|process)_\w+", expression)
        assert used
        known = {label for name in used for label in labels[names[name]]} | {"job"}
        selected = re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)
        grouped = [label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")]
        assert {*selected, *grouped} <= known


def test_the_page_explains_every_metric(registry: Registry, metrics: Metrics) -> None:
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    explained = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    declared = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics_text(metrics, registry.models), re.MULTILINE))
    assert explained == declared


class TestPercentiles:
    def test_are_of_what_was_measured(self) -> None:
        recent = summarised([Figures(float(value), 0.0, None, None) for value in range(100, 0, -1)])
        assert recent.num_requests == 100
        assert recent.duration_s is not None
        assert (recent.duration_s.p50, recent.duration_s.p95) == (50, 95)
        assert (recent.ttft_s, recent.tokens_per_s) == (None, None)

    @pytest.mark.parametrize(
        ("values", "p50", "p95"),
        [([3.0], 3, 3), ([1.0, 2.0], 1, 2), ([1.0, 2.0, 3.0], 2, 3), ([0.0] * 19 + [9.0], 0, 0)],
    )
    def test_are_values_that_occurred(self, values: list[float], p50: float, p95: float) -> None:
        found = summarised([Figures(0.0, 0.0, value, None) for value in values]).ttft_s
        assert found is not None
        assert (found.p50, found.p95) == (p50, p95)
