"""What a check found, and the table of all findings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import click

Level = Literal["ok", "warning", "problem"]

_COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem keeps something from working, a warning may; both come with what to do."""

    subject: str
    level: Level
    found: str
    fix: str = ""


def table(findings: Sequence[Finding]) -> str:
    """The findings in columns, what to do under each, and how many there are of each level."""
    width = max(len(finding.subject) for finding in findings)
    lines = [line for finding in findings for line in _rows(finding, width)]
    return "\n".join([*lines, "", _summary(findings)])


def _rows(finding: Finding, width: int) -> Iterable[str]:
    level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
    yield f"{level}  {finding.subject:<{width}}  {finding.found}"
    if finding.fix:
        yield f"{'':<8}  {'':<{width}}  fix: {finding.fix}"


def _summary(findings: Sequence[Finding]) -> str:
    counts = [(level, sum(finding.level == level for finding in findings)) for level in ("problem", "warning")]
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts if count]
    return f"{' and '.join(said)}." if said else "Nothing is wrong."
