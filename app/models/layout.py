"""How models are printed: for people, and as JSON for programs."""

import shlex
import time
from collections.abc import Sequence

import click
import msgspec

from app.models.inventory import Found

_HEAD = ("NAME", "KIND", "SIZE", "CONTEXT", "WEIGHTS", "LAST USED")


def as_json(value: object) -> str:
    """Dataclasses and their lists as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


def table(found: Sequence[Found]) -> str:
    """A line for each model."""
    rows = [_HEAD, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    head, *rest = lines
    return "\n".join([click.style(head, bold=True), *rest])


def faults(found: Sequence[Found]) -> str:
    """Two lines for each model that cannot be served."""
    return "\n".join(f"{one.name}  {size_text(one.size_bytes)}\n  {one.fault}." for one in found)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """What is known of one thing, a line each."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{click.style(f'{label:<{width}}', bold=True)}  {text}" for label, text in rows)


def size_text(num_bytes: int) -> str:
    """So many bytes in a unit that leaves few digits."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def count_text(count: int) -> str:
    """So many parameters."""
    return f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def launch_command(model_path: str) -> str:
    """What serves a model, to be pasted into a shell."""
    return f"mlx-openai-server launch --model-path {shlex.quote(model_path)}"


def _row(found: Found) -> tuple[str, ...]:
    used = "-" if found.last_used_s is None else time.strftime("%Y-%m-%d", time.localtime(found.last_used_s))
    origin = found.origin if found.origin == "sample" else used
    context = str(found.context_length or "-")
    return found.name, found.kind or "-", size_text(found.size_bytes), context, found.quantisation or "-", origin
