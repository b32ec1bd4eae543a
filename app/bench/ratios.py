"""What the figures come to: ratios of medians, which say more than figures of one machine on one day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from app.bench.figures import Figures, LoadFigures
from app.bench.plan import Part
from app.bench.scenarios import NEWCOMER_WORDS, NUM_NEIGHBOURS


@dataclass(frozen=True, slots=True)
class Ratio:
    """`value` is None where it was not measured; `better` says which way is good."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    value: float | None


def ratios(figures: Figures, parts: Sequence[Part]) -> list[Ratio]:
    """The ratios of what was to be measured, the library's first."""
    found: dict[Part, Iterator[Ratio]] = {
        "load": chain(_to_library(figures), _scaling(figures)),
        "prefix": _prefix(figures),
        "interference": _interference(figures),
        "constrained": _bound(figures),
    }
    return [ratio for part, those in found.items() if part in parts for ratio in those]


def _to_library(figures: Figures) -> Iterator[Ratio]:
    for count, both in figures.load.items():
        if (theirs := both.library) is not None:
            ours = both.server
            decode = _over(ours.decode_tokens_per_s, theirs.decode_tokens_per_s)
            whole = _over(ours.whole_tokens_per_s, theirs.whole_tokens_per_s)
            yield Ratio(f"decode_{count}", f"decode speed, {count} at once: server / library", "higher", decode)
            yield Ratio(f"whole_{count}", f"whole speed, {count} at once: server / library", "higher", whole)
    if (one := figures.load.get(1)) is not None and one.library is not None:
        yield Ratio("ttft_1", "time to first token: server / library", "lower", _ttft(one.server, one.library))


def _ttft(ours: LoadFigures, theirs: LoadFigures) -> float | None:
    return _over(ours.ttft_s, theirs.ttft_s)


def _scaling(figures: Figures) -> Iterator[Ratio]:
    if (one := figures.load.get(1)) is None or one.library is not None:
        return
    for count, several in figures.load.items():
        if count > 1:
            value = _over(several.server.whole_tokens_per_s, one.server.whole_tokens_per_s)
            yield Ratio(f"scaling_{count}", f"whole speed: {count} at once / one", "higher", value)


def _prefix(figures: Figures) -> Iterator[Ratio]:
    title = "second turn / as many new tokens alone"
    it, later = figures.prefix, figures.prefix_after_restart
    value = it and _over(it.second_turn_ttft_s, it.new_tokens_ttft_s)
    yield Ratio("prefix", f"time to first token: {title}", "lower", value)
    # Only a server that the bench has started itself is started again.
    if later is not None:
        value = _over(later.second_turn_ttft_s, later.new_tokens_ttft_s)
        yield Ratio("prefix_after_restart", f"time to first token after a restart: {title}", "lower", value)


def _interference(figures: Figures) -> Iterator[Ratio]:
    it = figures.interference
    gap = it and _over(it.worst_gap_s, it.usual_gap_s)
    ttft = it and _over(it.newcomer_ttft_s, it.newcomer_alone_ttft_s)
    yield Ratio("gap", f"a stream beside a prompt of {NEWCOMER_WORDS} words: worst gap / usual gap", "lower", gap)
    yield Ratio("newcomer", "that prompt's time to first token: beside the stream / alone", "lower", ttft)


def _bound(figures: Figures) -> Iterator[Ratio]:
    it = figures.constrained
    own = it and _over(it.constrained_tokens_per_s, it.plain_tokens_per_s)
    beside = it and _over(it.beside_constrained_tokens_per_s, it.beside_plain_tokens_per_s)
    yield Ratio("constrained", "speed: with a JSON schema / without", "higher", own)
    title = f"speed of a plain stream: beside {NUM_NEIGHBOURS} with a schema / {NUM_NEIGHBOURS} without"
    yield Ratio("beside_constrained", title, "higher", beside)


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
