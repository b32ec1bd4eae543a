"""`models convert`: the process that has MLX, and may crash."""

import os
import signal
import subprocess
import sys

import msgspec

from app.core import machine
from app.core.conversion import Conversion
from app.errors import ModelLoadError


def run_conversion(asked: Conversion) -> bool:
    """Whether it went well; what went wrong, and how far it is, the process says itself on stdout and stderr.

    Errors: ModelLoadError when it was killed, and could say nothing.
    """
    command = [sys.executable, "-P", "-m", "app.handler.conversion", msgspec.json.encode(asked).decode()]
    status = subprocess.run(command, env=machine.worker_environment(os.environ), check=False).returncode
    if status < 0:
        died = signal.Signals(-status).name
        raise ModelLoadError(f"{asked.name} cannot be converted: its process died ({died}); see that memory suffices.")
    return status == 0
