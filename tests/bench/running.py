"""The commands, as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import ROOT


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        # LD_PRELOAD is set so that the workers are started as in the other tests, whether or not there is an OpenBLAS.
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), "LD_PRELOAD": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
