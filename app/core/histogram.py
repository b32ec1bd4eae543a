"""Counts of measured values by size, as Prometheus wants them."""

from bisect import bisect_left

# Upper ends in seconds. A client waits for a first token from a blink to minutes; a token takes some milliseconds.
DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKEN_GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How many values lie up to each bound and beyond the last, and their sum. Owned by the event loop's thread."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        """Count the values of a histogram with the same bounds."""
        self.counts = [ours + its for ours, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
