"""Checks of the machine: its kind, what MLX computes on, what is installed."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping

import msgspec

from app import __version__
from app.core import machine
from app.core.probe import Probe
from app.doctor.finding import Finding

# Every library of every kind is imported, perhaps from a slow disk.
_PROBE_S = 180.0
_OLDEST_MACOS = 14
_GIB = 2**30


class ProbeError(Exception):
    """MLX cannot be used at all; the message is what the process said last."""


def probe(environ: Mapping[str, str]) -> Probe:
    """Try MLX out in a process like a worker's. Errors: ProbeError."""
    command = (sys.executable, "-P", "-m", "app.handler.probe")
    environment = machine.worker_environment(environ)
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        raise ProbeError(f"it did not start within {_PROBE_S:g} s") from None
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"it ended with status {ended.returncode}"]
        raise ProbeError(last[0])
    # Libraries may have printed something before.
    return msgspec.json.decode(ended.stdout.splitlines()[-1], type=Probe)


def machine_findings() -> Iterator[Finding]:
    """The processor, the system and the memory."""
    system = f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.system()
    about = (
        f"{system} on {platform.machine()}, {machine.memory_bytes() / _GIB:.1f} GiB of memory, {os.cpu_count()} cores"
    )
    if sys.platform == "darwin" and platform.machine() != "arm64":
        fix = "MLX needs Apple silicon; on such a Mac, install a Python for arm64 instead of one for Intel"
        yield Finding("machine", "problem", about, fix)
    elif sys.platform == "darwin" and int(platform.mac_ver()[0].split(".")[0]) < _OLDEST_MACOS:
        yield Finding("machine", "problem", about, f"update to macOS {_OLDEST_MACOS} or later")
    else:
        yield Finding("machine", "ok", about)


def mlx_findings(found: Probe | ProbeError) -> Iterator[Finding]:
    """The device, the BLAS of a CPU, the versions, and the kinds of model that can be served."""
    if isinstance(found, ProbeError):
        fix = "pip install 'mlx-openai-server[cpu]', or [cuda] for an NVIDIA GPU"
        if sys.platform == "darwin":
            fix = "pip install --force-reinstall mlx-openai-server"
        yield Finding("MLX", "problem", f"it cannot be used: {found}", fix)
        return
    yield Finding("MLX", "ok", f"computes on {found.device}, {found.memory_bytes / _GIB:.1f} GiB for models")
    if sys.platform == "linux" and found.is_cpu:
        yield _blas_finding(found.blas)
    versions = ", ".join(f"{name} {number}" for name, number in found.versions.items())
    yield Finding("versions", "ok", f"mlx-openai-server {__version__}, Python {platform.python_version()}, {versions}")
    for kind, fault in found.faults.items():
        if fault is None:
            yield Finding(f"kind {kind}", "ok", "can be served")
        else:
            about, _, fix = fault.rpartition(": ")
            yield Finding(f"kind {kind}", "warning", about, f"{fix} (only if you want to serve such models)")


def _blas_finding(blas: str | None) -> Finding:
    if blas is not None:
        return Finding("BLAS", "ok", blas)
    about = "none but MLX's slow one: prompts take about 15 times longer than they need to"
    return Finding("BLAS", "warning", about, "apt install libopenblas0-pthread, and leave LD_PRELOAD unset")
