"""`mlx-openai-server doctor`: what would go wrong if the server were started now, and what to do about it."""

import os
from collections.abc import Iterator

import click

from app.core.probe import Probe
from app.doctor.finding import Finding, table
from app.doctor.found import found_findings
from app.doctor.machine import ProbeError, machine_findings, mlx_findings, probe
from app.doctor.models import model_findings
from app.doctor.places import access_findings, address_findings, folder_findings
from app.settings import Settings


def check_up(settings: Settings) -> int:
    """Print what is found; gives the exit status, 1 where there is a problem."""
    found = list(_findings(settings))
    click.echo(table(found))
    return int(any(finding.level == "problem" for finding in found))


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from machine_findings()
    probed: Probe | ProbeError
    try:
        probed = probe(os.environ)
    except ProbeError as error:
        probed = error
    yield from mlx_findings(probed)
    yield from model_findings(settings, probed if isinstance(probed, Probe) else None)
    yield from found_findings(settings)
    yield from address_findings(settings)
    yield from access_findings(settings)
    yield from folder_findings(settings)
