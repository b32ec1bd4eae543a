"""What is measured, with units in the names, and medians of it."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from app.bench.stream import Stream, all_gaps_s, decode_rate, rate

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Some requests at once. Gaps are those between the pieces of a text; `whole` counts from the requests on."""

    ttft_s: float | None
    gap_median_s: float | None
    gap_p95_s: float | None
    gap_worst_s: float | None
    decode_tokens_per_s: float | None
    whole_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class LoadRound:
    """The same job done by a server and, where it is measured, by the library alone."""

    server: LoadFigures
    library: LoadFigures | None = None


@dataclass(frozen=True, slots=True)
class PrefixFigures:
    """A conversation: its first turn, its second, and as many new tokens as a prompt of their own."""

    first_turn_ttft_s: float
    second_turn_ttft_s: float
    new_tokens_ttft_s: float
    num_prompt_tokens: float | None
    cached_share: float | None


@dataclass(frozen=True, slots=True)
class InterferenceFigures:
    """A running stream that a long prompt arrives beside."""

    usual_gap_s: float
    worst_gap_s: float
    newcomer_alone_ttft_s: float
    newcomer_ttft_s: float


@dataclass(frozen=True, slots=True)
class ConstrainedFigures:
    """Speeds of one stream: alone, and plain beside three others of a kind."""

    plain_tokens_per_s: float | None
    constrained_tokens_per_s: float | None
    beside_plain_tokens_per_s: float | None
    beside_constrained_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class CostFigures:
    """Microseconds per token of streams that run at once, by place; `wall` is time, `cpu` is work.

    The worker's main thread has one row after the other to do, so its three wall times make up the whole; the rest
    happens beside it, on other cores where there are some. The client parses when the measurement is over.
    """

    wall_us: float
    cpu_us: float
    step_wall_us: float
    step_cpu_us: float
    engine_wall_us: float
    engine_cpu_us: float
    frames_wall_us: float
    frames_cpu_us: float
    model_threads_cpu_us: float
    server_frames_cpu_us: float
    server_encoding_cpu_us: float
    server_loop_cpu_us: float
    client_cpu_us: float
    client_parsing_cpu_us: float


@dataclass(slots=True)
class Figures:
    """All that was measured; what could not be is None or not there."""

    load: dict[int, LoadRound] = field(default_factory=dict[int, LoadRound])
    prefix: PrefixFigures | None = None
    prefix_after_restart: PrefixFigures | None = None
    interference: InterferenceFigures | None = None
    constrained: ConstrainedFigures | None = None
    cost: dict[int, CostFigures] = field(default_factory=dict[int, CostFigures])


def load_figures(streams: Sequence[Stream]) -> LoadFigures:
    """Of streams that were started together."""
    started_s = min(stream.started_s for stream in streams)
    last_s = max(stream.times_s[-1] for stream in streams)
    count = sum(stream.num_tokens for stream in streams)
    gaps_s = all_gaps_s(streams)
    return LoadFigures(
        ttft_s=statistics.median(stream.ttft_s for stream in streams),
        gap_median_s=percentile(gaps_s, 0.5),
        gap_p95_s=percentile(gaps_s, 0.95),
        gap_worst_s=percentile(gaps_s, 1),
        decode_tokens_per_s=decode_rate(streams),
        whole_tokens_per_s=rate(count, last_s - started_s),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which this share of all lies, between two of them in proportion; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median_of(rounds: Sequence[Measured]) -> Measured:
    """Figure by figure over the rounds; a round without a figure does not count for it."""
    known = [one for one in rounds if one is not None]
    if not known:
        return rounds[0]
    first: Any = known[0]
    if not dataclasses.is_dataclass(first) or isinstance(first, type):
        return cast("Measured", statistics.median(cast("list[float]", known)))
    names = [one.name for one in dataclasses.fields(first)]
    medians = {name: median_of([getattr(one, name) for one in known]) for name in names}
    return cast("Measured", dataclasses.replace(first, **medians))
