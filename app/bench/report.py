"""What a run found, as text for the terminal and as JSON."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from app.bench.figures import Figures, LoadFigures
from app.bench.plan import Plan
from app.bench.ratios import Ratio, ratios

# Places and the names of their figures, for time and for work.
_PLACES = (
    ("worker: model and decode step", "step_wall_us", "step_cpu_us"),
    ("worker: engine outside the step", "engine_wall_us", "engine_cpu_us"),
    ("worker: encoding and sending frames", "frames_wall_us", "frames_cpu_us"),
    ("worker: other threads, the model's", "", "model_threads_cpu_us"),
    ("server: decoding frames", "", "server_frames_cpu_us"),
    ("server: encoding events", "", "server_encoding_cpu_us"),
    ("server: the rest of its loop", "", "server_loop_cpu_us"),
    ("client: receiving", "", "client_cpu_us"),
    ("together", "wall_us", "cpu_us"),
    ("client: parsing, afterwards", "", "client_parsing_cpu_us"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """A run: where, what and how often it was to measure, what came out, and what to know about it."""

    base_url: str
    model: str
    plan: Plan
    figures: Figures
    notes: Sequence[str]

    @property
    def ratios(self) -> list[Ratio]:
        """Of the medians."""
        return ratios(self.figures, self.plan.parts)


def as_json(report: Report) -> str:
    """Everything; the figures have their units in their names."""
    shown = {
        "base_url": report.base_url,
        "model": report.model,
        "num_rounds": report.plan.num_rounds,
        "num_tokens": report.plan.num_tokens,
        "ratios": {ratio.name: ratio.value for ratio in report.ratios},
        "figures": dataclasses.asdict(report.figures),
        "notes": list(report.notes),
    }
    return json.dumps(shown, indent=1) + "\n"


def as_text(report: Report) -> str:
    """Ratios first."""
    rounds = "one round" if report.plan.num_rounds == 1 else f"medians of {report.plan.num_rounds} rounds"
    parts = [f"{report.model} at {report.base_url}, {rounds}"]
    if report.ratios:
        parts.append(_ratio_table(report.ratios))
    if report.figures.load:
        parts.append(_table(_load_rows(report.figures)))
    if rows := list(_single_rows(report.figures)):
        parts.append(_table([("figure", "median"), *rows]))
    if report.figures.cost:
        parts.append(_table(_cost_rows(report.figures)))
    parts += report.notes
    return "\n\n".join(parts) + "\n"


def _ratio_table(found: Iterable[Ratio]) -> str:
    rows = [(ratio.title, _number(ratio.value), f"{ratio.better} is better") for ratio in found]
    return _table([("ratio", "median", ""), *rows])


def _load_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    names = [one.name for one in dataclasses.fields(LoadFigures)]
    yield ("at once", "", *(_heading(name) for name in names))
    for count, both in figures.load.items():
        for who, measured in (("server", both.server), ("library", both.library)):
            if measured is not None:
                yield (str(count), who, *(_figure(name, getattr(measured, name)) for name in names))


def _single_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    groups = {
        "prefix": figures.prefix,
        "after a restart": figures.prefix_after_restart,
        "interference": figures.interference,
        "constrained": figures.constrained,
    }
    for group, measured in groups.items():
        if measured is not None:
            for one in dataclasses.fields(measured):
                title = f"{group}: {_heading(one.name)}"
                yield title, _figure(one.name, getattr(measured, one.name))


def _cost_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    measured = list(figures.cost.values())
    heads = [(f"{count}: time", f"{count}: work") for count in figures.cost]
    yield ("microseconds per token, so many at once", *chain.from_iterable(heads))
    for title, *names in _PLACES:
        yield title, *(_number(getattr(one, name)) if name else "" for one in measured for name in names)


def _heading(name: str) -> str:
    """`gap_worst_s` as it is shown: in milliseconds."""
    if name.endswith("_per_s"):
        return name.removesuffix("_per_s").replace("_", " ") + "/s"
    return (f"{name[:-2]} ms" if name.endswith("_s") else name).replace("_", " ").replace("ttft", "TTFT")


def _figure(name: str, value: float | None) -> str:
    is_time = name.endswith("_s") and not name.endswith("_per_s")
    return _number(value * 1000 if value is not None and is_time else value)


def _number(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return "-"
    return f"{value:.{2 if value < 10 else 1 if value < 1000 else 0}f}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first to the left, the others to the right, the last as it is."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join(line.rstrip() for line in shown)
