"""What a soak comes to: figures, and the faults that make it fail."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from bench.soak.clients import Tally
from bench.soak.vitals import Vitals, slope

_MIB = 1 << 20
# Memory settles at first; what still grows in the second half of a long enough run is a leak. A heap in use wanders a
# little all the same, and longer runs tell smaller leaks from that.
_LEAST_JUDGED_S = 240
_MOST_GROWTH = 0.05
_LEAST_GROWTH_BYTES = 16 * _MIB
# What comes and goes with requests is no growth: the lowest of each part counts.
_NUM_PARTS = 10
# A file that is opened when it is first needed is no leak.
_SPARE_FILES = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What a run is to be: its length, and how many clients ask how many different things of each kind."""

    minutes: float
    num_clients: int
    num_of_each: int
    seed: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory of a process: at most, and over the second half."""

    peak_mib: float
    median_mib: float
    mib_per_minute: float
    is_leak: bool


@dataclass(slots=True)
class Soak:
    """A run. `samples` begin before the load and end after it."""

    load: Load
    tally: Tally
    samples: list[Vitals] = field(default_factory=list[Vitals])
    faults: list[str] = field(default_factory=list[str])

    @property
    def all_faults(self) -> list[str]:
        """Wrong answers first."""
        return [*self.tally.faults, *self.faults, *self._leaks()]

    @property
    def longest_pause_s(self) -> float:
        """Between two looks at the processes: much longer than asked for where the machine stood still."""
        return max((after.at_s - before.at_s for before, after in pairwise(self.samples)), default=0.0)

    @property
    def server(self) -> Growth:
        """Of the server process."""
        return self._growth([(one.at_s, one.server_bytes) for one in self.samples])

    @property
    def worker(self) -> Growth:
        """Of the worker process."""
        return self._growth([(one.at_s, one.worker_bytes) for one in self.samples])

    def _growth(self, points: Sequence[tuple[float, int]]) -> Growth:
        (begun_s, _), (ended_s, _) = points[0], points[-1]
        half_s = (ended_s - begun_s) / 2
        late = [point for point in points if point[0] >= begun_s + half_s]
        median = statistics.median(size for _, size in late)
        per_s = slope(_lowest(late))
        allowed = max(_MOST_GROWTH * median, _LEAST_GROWTH_BYTES)
        return Growth(
            peak_mib=max(size for _, size in points) / _MIB,
            median_mib=median / _MIB,
            mib_per_minute=60 * per_s / _MIB,
            is_leak=2 * half_s >= _LEAST_JUDGED_S and per_s * half_s > allowed,
        )

    def _leaks(self) -> Iterator[str]:
        first, last = self.samples[0], self.samples[-1]
        if last.worker_pid != first.worker_pid:
            yield "another worker runs than at the start"
        for who, before, after in (
            ("server", first.num_server_files, last.num_server_files),
            ("worker", first.num_worker_files, last.num_worker_files),
        ):
            if after > before + _SPARE_FILES:
                yield f"the {who} has {after} files open, {before} at the start"
        for who, growth in (("server", self.server), ("worker", self.worker)):
            if growth.is_leak:
                yield f"the {who} grows by {growth.mib_per_minute:.2f} MiB a minute, from {growth.median_mib:.0f} MiB"


def _lowest(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The lowest point of each part of the time."""
    size = max(1, len(points) // _NUM_PARTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [min(part, key=lambda point: point[1]) for part in parts]


def as_line(soak: Soak, passed_s: float) -> str:
    """How it is so far."""
    tally, last = soak.tally, soak.samples[-1]
    return (
        f"{passed_s:.0f} s: {tally.answered.total()} answered, {tally.hung_up.total()} hung up, "
        f"{tally.wrong.total()} wrong; worker {last.worker_bytes / _MIB:.0f} MiB, "
        f"server {last.server_bytes / _MIB:.0f} MiB, {last.num_worker_files} + {last.num_server_files} files"
    )


def as_text(soak: Soak) -> str:
    """The table of the end."""
    tally = soak.tally
    kinds = [*tally.answered, *(kind for kind in tally.hung_up if kind not in tally.answered)]
    lines = [f"{'kind':<12}{'answered':>10}{'hung up':>10}{'wrong':>10}"]
    lines += [f"{kind:<12}{tally.answered[kind]:>10}{tally.hung_up[kind]:>10}{tally.wrong[kind]:>10}" for kind in kinds]
    lines.append(f"{'all':<12}{tally.answered.total():>10}{tally.hung_up.total():>10}{tally.wrong.total():>10}")
    lines.append("")
    lines.append(
        f"{tally.num_tokens} tokens from prompts of {tally.num_prompt_tokens}, {tally.num_cached_tokens} cached"
    )
    for who, growth in (("worker", soak.worker), ("server", soak.server)):
        lines.append(
            f"{who}: {growth.peak_mib:.0f} MiB at most, {growth.median_mib:.0f} in the second half, "
            f"which grew by {growth.mib_per_minute:+.2f} MiB a minute"
        )
    lines.append(f"between two looks at the processes: {soak.longest_pause_s:.0f} s at most")
    lines.append("")
    lines += [f"FAULT {fault}" for fault in soak.all_faults] or ["no faults"]
    return "\n".join(lines) + "\n"


def as_json(soak: Soak) -> str:
    """Everything."""
    tally = soak.tally
    shown = {
        **asdict(soak.load),
        "answered": dict(tally.answered),
        "hung_up": dict(tally.hung_up),
        "wrong": dict(tally.wrong),
        "num_tokens": tally.num_tokens,
        "num_prompt_tokens": tally.num_prompt_tokens,
        "num_cached_tokens": tally.num_cached_tokens,
        "worker": asdict(soak.worker),
        "server": asdict(soak.server),
        "longest_pause_s": soak.longest_pause_s,
        "samples": [asdict(one) for one in soak.samples],
        "faults": soak.all_faults,
    }
    return json.dumps(shown, indent=1) + "\n"
