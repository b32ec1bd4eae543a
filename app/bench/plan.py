"""What to measure, and how often."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Part = Literal["load", "prefix", "interference", "constrained"]
PARTS: tuple[Part, ...] = get_args(Part)


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
