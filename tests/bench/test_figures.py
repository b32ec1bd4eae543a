"""Medians, percentiles, speeds and ratios against figures worked out by hand."""

import pytest

from app.bench.figures import (
    ConstrainedFigures,
    Figures,
    InterferenceFigures,
    LoadFigures,
    LoadRound,
    PrefixFigures,
    load_figures,
    median_of,
    percentile,
)
from app.bench.plan import PARTS
from app.bench.ratios import ratios
from app.bench.stream import Stream


def load(ttft_s: float, decode: float | None, whole: float | None = 1.0) -> LoadFigures:
    return LoadFigures(ttft_s, 0.1, 0.2, 0.3, decode, whole)


def test_percentiles() -> None:
    values = [5.0, 1.0, 2.0, 4.0, 3.0]
    assert [percentile(values, share) for share in (0, 0.5, 1)] == [1, 3, 5]
    assert percentile(values, 0.95) == pytest.approx(4.8)
    assert percentile([7.0], 0.95) == 7
    assert percentile([], 0.5) is None


def test_the_figures_of_streams_that_ran_together() -> None:
    first = Stream(10.0, [11.0, 11.5, 12.0], num_tokens=3)
    second = Stream(10.0, [11.5, 12.5, 14.5], num_tokens=3)
    figures = load_figures([first, second])
    assert figures.ttft_s == 1.25
    assert (figures.gap_median_s, figures.gap_worst_s) == (0.75, 2)
    assert figures.gap_p95_s == pytest.approx(1.85)
    # Five of the six tokens came in the 3.5 s after the first.
    assert figures.decode_tokens_per_s == pytest.approx(5 / 3.5)
    assert figures.whole_tokens_per_s == pytest.approx(6 / 4.5)


def test_tokens_that_come_with_the_first_do_not_count_as_decoded_since() -> None:
    assert Stream(0, [1.0, 1.0, 1.0, 2.0], num_tokens=8).tokens_per_s == pytest.approx(2)
    assert Stream(0, [1.0, 1.0, 1.0, 1.0, 2.0], num_tokens=5).tokens_per_s is None
    assert Stream(0, [1.0, 1.0], num_tokens=2).tokens_per_s is None
    assert Stream(0, [1.0], num_tokens=1).tokens_per_s is None


def test_medians_go_figure_by_figure_and_leave_out_what_is_missing() -> None:
    rounds = [
        LoadRound(load(3, 10), load(1, None)),
        LoadRound(load(1, 30), load(2, None)),
        LoadRound(load(2, None), None),
    ]
    median = median_of(rounds)
    assert (median.server.ttft_s, median.server.decode_tokens_per_s) == (2, 20)
    assert median.library is not None
    assert (median.library.ttft_s, median.library.decode_tokens_per_s) == (1.5, None)


def test_ratios() -> None:
    figures = Figures(
        load={1: LoadRound(load(3, 50, 40), load(2, 100, 80)), 8: LoadRound(load(9, 300, 200), load(9, 100, 100))},
        prefix=PrefixFigures(9, 3, 2, 1000, 0.9),
        prefix_after_restart=PrefixFigures(9, 5, 2, None, None),
        interference=InterferenceFigures(0.01, 0.04, 2, 3),
        constrained=ConstrainedFigures(100, 90, 50, 45),
    )
    assert {ratio.name: ratio.value for ratio in ratios(figures, PARTS)} == pytest.approx(
        {
            "decode_1": 0.5,
            "whole_1": 0.5,
            "decode_8": 3,
            "whole_8": 2,
            "ttft_1": 1.5,
            "prefix": 1.5,
            "prefix_after_restart": 2.5,
            "gap": 4,
            "newcomer": 1.5,
            "constrained": 0.9,
            "beside_constrained": 0.9,
        }
    )


def test_without_the_library_speeds_are_compared_with_one_request() -> None:
    figures = Figures(load={1: LoadRound(load(1, 1, 10)), 4: LoadRound(load(1, 1, 30)), 8: LoadRound(load(1, 1, None))})
    found = {ratio.name: ratio.value for ratio in ratios(figures, PARTS)}
    assert (found["scaling_4"], found["scaling_8"]) == (3, None)
    assert "prefix_after_restart" not in found
    assert [found[name] for name in ("prefix", "gap", "newcomer", "constrained")] == [None] * 4


def test_what_was_not_asked_for_has_no_ratio() -> None:
    assert [ratio.name for ratio in ratios(Figures(), ("interference",))] == ["gap", "newcomer"]
