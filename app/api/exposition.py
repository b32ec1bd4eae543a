"""Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from collections.abc import Mapping
from typing import Literal

from app.core.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A sample's labels, in the order of the names its metric was given.
Labels = tuple[str, ...]
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Exposition:
    """A text that is written metric by metric."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def text(self) -> str:
        """All that was written."""
        return "\n".join([*self._lines, ""])

    def write(
        self,
        name: str,
        kind: Literal["counter", "gauge"],
        about: str,
        samples: Mapping[Labels, float],
        names: tuple[str, ...] = (),
    ) -> None:
        """A metric; `names` are those of the labels."""
        self._head(name, kind, about)
        self._lines += [f"{name}{_braced(names, labels)} {value}" for labels, value in samples.items()]

    def write_histograms(self, name: str, about: str, label: str, histograms: Mapping[str, Histogram]) -> None:
        """A histogram for each value of `label`."""
        self._head(name, "histogram", about)
        for value, histogram in histograms.items():
            labels = f'{label}="{value.translate(_ESCAPES)}"'
            count = 0
            for bound, more in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
                count += more
                self._lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {count}')
            self._lines.append(f"{name}_sum{{{labels}}} {histogram.total}")
            self._lines.append(f"{name}_count{{{labels}}} {count}")

    def _head(self, name: str, kind: str, about: str) -> None:
        self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _braced(names: tuple[str, ...], labels: Labels) -> str:
    if not names:
        return ""
    pairs = zip(names, labels, strict=True)
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"
