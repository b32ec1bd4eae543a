"""A run as a picture: bars of the ratios, a line of the throughput. SVG, readable on white and on black."""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from app.bench.figures import Figures, LoadFigures
from app.bench.ratios import Ratio
from app.bench.report import Report

_WIDTH = 880
_BAR = 22
_TOP = 56
_AXIS_X = 620
_AXIS_WIDTH = 160
_PLOT_HEIGHT = 180
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #66707a }
.title { font-size: 15px; font-weight: 600 }
.end { text-anchor: end } .middle { text-anchor: middle }
.server { fill: #2f81f7; stroke: #2f81f7 } .library { fill: #8b949e; stroke: #8b949e }
.worse { fill: #d9822b } .axis { stroke: #8b949e; stroke-opacity: .6 }
polyline { fill: none !important; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #a3adb8 } }
"""


def as_svg(report: Report) -> str:
    """The picture."""
    known = [ratio for ratio in report.ratios if ratio.value]
    below = _TOP + _BAR * len(known) + 40
    height = below + (_PLOT_HEIGHT + 60 if report.figures.load else 0)
    parts = [_text(16, 24, f"{report.model}: ratios of medians (logarithmic)", "title")]
    parts += _bars(known)
    if report.figures.load:
        parts += _throughput(report.figures, below)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _bars(known: Sequence[Ratio]) -> Iterator[str]:
    """From 1, to the right where that is good and to the left where it is not."""
    yield _line(_AXIS_X, _TOP - 16, _AXIS_X, _TOP + _BAR * len(known))
    yield _text(_AXIS_X, _TOP - 20, "worse \N{LEFTWARDS ARROW} 1 \N{RIGHTWARDS ARROW} better", "middle")
    gains = [math.log(ratio.value or 1) * (1 if ratio.better == "higher" else -1) for ratio in known]
    # The longest bar fills its half, but one that differs from 1 by next to nothing is not blown up.
    scale = _AXIS_WIDTH / max([abs(gain) for gain in gains] + [math.log(2)])
    for place, (ratio, gain) in enumerate(zip(known, gains, strict=True)):
        y = _TOP + _BAR * place
        width = abs(gain) * scale
        x = _AXIS_X - (width if gain < 0 else 0)
        kind = "worse" if gain < 0 else "server"
        yield _text(_AXIS_X - _AXIS_WIDTH - 12, y + 11, ratio.title, "end")
        yield f'<rect class="{kind}" stroke="none" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 8}"/>'
        yield _text(_WIDTH - 16, y + 11, f"{ratio.value:.3g}", "end")


def _throughput(figures: Figures, top: int) -> Iterator[str]:
    """Whole speed over the number of requests at once, from zero."""
    yield _text(16, top, "tokens per second over requests at once", "title")
    series: dict[str, list[LoadFigures | None]] = {
        "server": [both.server for both in figures.load.values()],
        "library": [both.library for both in figures.load.values()],
    }
    speeds = {who: [one and one.whole_tokens_per_s for one in measured] for who, measured in series.items()}
    highest = max((speed for line in speeds.values() for speed in line if speed), default=1.0)
    floor = top + _PLOT_HEIGHT + 24
    step = (_WIDTH - 160) / max(1, len(figures.load) - 1)
    yield _line(64, floor, _WIDTH - 64, floor)
    for place, count in enumerate(figures.load):
        yield _text(80 + step * place, floor + 18, str(count), "middle")
    for who, line in speeds.items():
        points = [
            (80 + step * place, floor - _PLOT_HEIGHT * speed / highest, speed)
            for place, speed in enumerate(line)
            if speed is not None
        ]
        yield from _curve(who, points)


def _curve(who: str, points: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    if not points:
        return
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    yield f'<polyline class="{who}" points="{path}"/>'
    for x, y, speed in points:
        yield f'<circle class="{who}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        yield _text(x, y + (-8 if who == "server" else 18), f"{speed:.0f}", "middle")
    # Apart even where the two lines end together.
    x, y, _ = points[-1]
    yield _text(x + 24, y + (0 if who == "server" else 12), who)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="axis" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
