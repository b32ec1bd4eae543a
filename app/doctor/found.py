"""Checks of the places where models are found that nobody has configured."""

from collections.abc import Iterator

from app.doctor.finding import Finding
from app.models.local_models import open_local_models, problem_of_places
from app.settings import Settings

_MOST_EXPLAINED = 5


def found_findings(settings: Settings) -> Iterator[Finding]:
    """How many models can be served from there, and why others cannot."""
    subject = "models to be found"
    if problem := problem_of_places(settings):
        about, _, fix = problem.rpartition(": ")
        yield Finding(subject, "problem", about, fix)
        return
    if not settings.finds_models:
        return
    faults = {name: fault for name, _, fault in open_local_models(settings).everything()}
    others = [(name, fault) for name, fault in faults.items() if fault]
    if count := len(faults) - len(others):
        yield Finding(subject, "ok", f"{count} can be served" + (f", and {len(others)} cannot" if others else ""))
    else:
        fix = "fetch one, `mlx-openai-server models pull NAME`, or name another folder"
        yield Finding(subject, "warning", "there are none that can be served", fix)
    for name, fault in others[:_MOST_EXPLAINED]:
        yield Finding(f"found {name}", "warning", f"it cannot be served: {fault}", "leave it, or look for another one")
