"""What is measured of a request, and what is counted of it when it is over."""

import time

import pytest

from app.core.events import Embedded, Event, Finished, ReasoningDelta, Started, TextDelta, ToolCallStarted, Usage
from app.core.histogram import Histogram
from app.core.metrics import Metrics
from app.core.record import RequestRecord
from app.errors import QueueFull


def record_of(*batches: list[Event]) -> RequestRecord:
    record = RequestRecord("test", model="tiny", waited_s=0.25)
    for batch in batches:
        record.note(batch)
    return record


def test_a_value_counts_up_to_the_bound_it_reaches() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 7.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 12.0)
    histogram.add(histogram)
    assert (histogram.counts, histogram.total) == ([4, 4, 2], 24.0)


class TestRecord:
    def test_gaps_are_between_pieces_of_an_answer(self) -> None:
        record = record_of([Started(5)], [TextDelta("a")])
        assert record.token_gaps is None
        time.sleep(0.011)
        record.note([Started(5)])
        record.note([ReasoningDelta("b"), ToolCallStarted(0, "id", "name")])
        assert record.token_gaps is not None
        assert sum(record.token_gaps.counts) == 1
        assert record.token_gaps.total >= 0.01

    def test_an_answer_that_was_cut_off_has_the_tokens_of_its_pieces(self) -> None:
        record = record_of([Started(5), TextDelta("a")], [TextDelta("b")])
        assert (record.generated_tokens, record.num_tokens) == (2, 7)
        record.note([Finished(Usage(5, 9))])
        assert (record.generated_tokens, record.num_tokens) == (9, 14)

    def test_ends_once(self) -> None:
        record, told = record_of([Started(5)]), list[RequestRecord]()
        record.watchers.append(told.append)
        record.end()
        duration_s = record.duration_s
        record.end()
        assert told == [record]
        assert record.duration_s == duration_s

    def test_work_that_goes_on_alone_takes_its_watchers_along(self) -> None:
        record, told = RequestRecord("test", "client", key_name="alice", timeout_s=3), list[RequestRecord]()
        record.watchers.append(told.append)
        own = record.go_on_alone()
        record.end()
        assert told == []
        own.end()
        assert told == [own]
        assert (own.request_id, own.client, own.key_name, own.timeout_s) == ("test", "client", "alice", 3)

    def test_figures_are_what_is_known(self) -> None:
        record = RequestRecord("test", error=QueueFull("x"))
        assert record.figures().keys() == {"request_id", "duration_s", "error"}
        record = record_of([Started(5, 3), TextDelta("a")], [Finished(Usage(5, 4, 3))])
        record.key_name = "alice"
        figures = record.figures()
        assert (figures["key"], figures["model"], figures["queue_wait_s"]) == ("alice", "tiny", 0.25)
        assert [figures[f"{name}_tokens"] for name in ("prompt", "cached", "generated")] == [5, 3, 4]
        assert figures["tokens_per_s"] == pytest.approx(record.tokens_per_s)


class TestMetrics:
    def test_work_is_counted_for_its_model(self) -> None:
        metrics = Metrics()
        metrics.take_work(record_of([Started(5, 3), TextDelta("a")], [TextDelta("b")], [Finished(Usage(5, 4, 3))]))
        embedded = record_of([Embedded([], Usage(7))])
        embedded.key_name = "alice"
        metrics.take_work(embedded)
        model = metrics.models["tiny"]
        assert (model.prompt_tokens, model.cached_tokens, model.generated_tokens) == (12, 3, 4)
        assert (model.num_prompts, model.num_cache_hits) == (2, 1)
        of_each = [sum(one.counts) for one in (model.duration, model.queue_wait, model.ttft, model.token_gap)]
        assert of_each == [2, 2, 1, 1]
        assert model.queue_wait.total == 0.5
        assert (metrics.key_prompts, metrics.key_tokens) == ({"alice": 1}, {"alice": 7})
        assert [figures.ttft_s is None for figures in metrics.recent(["tiny", "other"])] == [False, True]

    def test_what_no_worker_accepted_is_no_work(self) -> None:
        metrics = Metrics()
        metrics.take_work(record_of())
        metrics.take_work(RequestRecord("test", usage=Usage(5)))
        assert metrics.models == {}

    def test_replies_are_counted_by_method_route_and_status(self) -> None:
        metrics = Metrics()
        for status in (200, 200, 429):
            metrics.take_reply("POST", "/v1/x", status, 0.1)
        assert metrics.replies == {("POST", "/v1/x", 200): 2, ("POST", "/v1/x", 429): 1}
        assert sum(metrics.reply_durations["/v1/x"].counts) == 3

    def test_only_so_many_are_recent(self) -> None:
        metrics = Metrics()
        for _ in range(600):
            metrics.take_work(record_of([Started(1)]))
        assert len(metrics.recent(["tiny"])) == 512
        assert metrics.models["tiny"].num_prompts == 600
