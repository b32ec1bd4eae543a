"""A run as text, as JSON and as a picture."""

import dataclasses
import json
from xml.etree import ElementTree

import pytest

from app.bench.figures import CostFigures, Figures, InterferenceFigures, LoadFigures, LoadRound
from app.bench.plan import Plan
from app.bench.plot import as_svg
from app.bench.report import Report, as_json, as_text

SVG = "{http://www.w3.org/2000/svg}"


def load_round(speed: float | None, library: float | None = None) -> LoadRound:
    theirs = None if library is None else LoadFigures(0.002, 0.001, 0.001, 0.001, library, library)
    return LoadRound(LoadFigures(0.25, 0.0125, None, 1.5, speed, speed), theirs)


def report(*, library: float | None = None) -> Report:
    figures = Figures(
        load={1: load_round(50, library), 8: load_round(12345, library), 32: load_round(None)},
        interference=InterferenceFigures(0.01, 0.5, 1, 1),
    )
    return Report("http://h:1/v1", "<a> & 'b'", Plan(num_rounds=3), figures, ["Something to know."])


def test_the_text_has_ratios_first_and_dashes_for_what_is_missing() -> None:
    lines = as_text(report(library=100)).splitlines()
    assert lines[0] == "<a> & 'b' at http://h:1/v1, medians of 3 rounds"
    row = {line.split("  ")[0]: line.split()[-4] for line in lines[3 : lines.index("", 3)]}
    assert row["decode speed, 1 at once: server / library"] == "0.50"
    assert row["a stream beside a prompt of 800 words: worst gap / usual gap"] == "50.0"
    assert row["speed: with a JSON schema / without"] == "-"
    cells = [line.split() for line in lines]
    assert ["8", "server", "250.0", "12.5", "-", "1500", "12345", "12345"] in cells
    assert ["32", "server", "250.0", "12.5", "-", "1500", "-", "-"] in cells
    assert ["1", "library", "2.00", "1.00", "1.00", "1.00", "100.0", "100.0"] in cells
    assert ["interference:", "worst", "gap", "ms", "500.0"] in cells
    assert lines[-1] == "Something to know."
    assert all(line == line.rstrip() for line in lines)


def test_costs_stand_by_place_beside_each_other() -> None:
    one = CostFigures(*range(1, 15))
    figures = Figures(cost={1: one, 32: dataclasses.replace(one, wall_us=500)})
    shown = as_text(Report("http://h:1/v1", "m", Plan(parts=("cost",)), figures, []))
    lines = [" ".join(line.split()) for line in shown.splitlines()[2:]]
    assert lines[0] == "microseconds per token, so many at once 1: time 1: work 32: time 32: work"
    assert "server: encoding events 11.0 11.0" in lines
    assert "together 1.00 2.00 500.0 2.00" in lines
    assert "ratio" not in shown
    # All but the whole are shown once for each number at once.
    numbers = [cell for line in lines[1:] for cell in line.split() if cell.replace(".", "").isdigit()]
    assert len(numbers) == 2 * len(dataclasses.fields(CostFigures))


def test_the_json_has_everything() -> None:
    shown = json.loads(as_json(report(library=100)))
    assert (shown["model"], shown["num_rounds"], shown["notes"]) == ("<a> & 'b'", 3, ["Something to know."])
    assert shown["ratios"]["decode_1"] == 0.5
    assert shown["ratios"]["constrained"] is None
    assert shown["figures"]["load"]["8"]["library"]["whole_tokens_per_s"] == 100
    assert shown["figures"]["load"]["32"]["library"] is None
    assert shown["figures"]["prefix"] is None


@pytest.mark.parametrize("library", [None, 100])
def test_the_picture_shows_every_known_ratio_and_speed(library: float | None) -> None:
    made = report(library=library)
    root = ElementTree.fromstring(as_svg(made))
    _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
    texts = [text.text for text in root.iter(f"{SVG}text")]
    known = [ratio for ratio in made.ratios if ratio.value is not None]
    bars = list(root.iter(f"{SVG}rect"))
    assert len(bars) == len(known)
    assert {ratio.title for ratio in known} <= set(texts)
    assert len(list(root.iter(f"{SVG}circle"))) == (2 if library is None else 4)
    for item in [*bars, *root.iter(f"{SVG}circle"), *root.iter(f"{SVG}text")]:
        x, y = (float(item.get(name) or item.get(f"c{name}", "-1")) for name in "xy")
        assert 0 <= x <= x + float(item.get("width", "0")) <= width
        assert 0 <= y <= height


def test_bars_go_to_the_better_side() -> None:
    root = ElementTree.fromstring(as_svg(report(library=100)))
    kinds = [bar.get("class") for bar in root.iter(f"{SVG}rect")]
    values = [(ratio.value, ratio.better) for ratio in report(library=100).ratios if ratio.value]
    assert kinds == [
        "server" if (value >= 1) == (better == "higher") or value == 1 else "worse" for value, better in values
    ]
    assert {"server", "worse"} == set(kinds)


def test_nothing_measured_is_still_a_report() -> None:
    empty = Report("http://h:1/v1", "m", Plan(num_rounds=1), Figures(), [])
    assert "one round" in as_text(empty)
    assert json.loads(as_json(empty))["figures"]["load"] == {}
    ElementTree.fromstring(as_svg(empty))
