"""What to measure, and how often."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Part = Literal["load", "prefix", "interference", "constrained", "cost"]
# Of any server, and of one that the bench has started itself.
PARTS: Final[tuple[Part, ...]] = ("load", "prefix", "interference", "constrained")
OWN_PARTS: Final[tuple[Part, ...]] = (*PARTS, "cost")


@dataclass(frozen=True, slots=True)
class Plan:
    """A round before the first does not count."""

    concurrencies: tuple[int, ...] = (1, 4, 8, 16, 32)
    num_rounds: int = 3
    num_tokens: int = 48
    max_time_s: float = 600.0
    parts: tuple[Part, ...] = PARTS


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files to write besides the tables."""

    json: Path | None = None
    svg: Path | None = None
