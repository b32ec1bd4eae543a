"""The program in a home of its own, with a hub cache of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Ended:
    """A run of `mlx-openai-server models`."""

    def __init__(self, home: Path, *arguments: object, typed: str = "", **environ: str) -> None:
        own = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
        ended = subprocess.run(
            [sys.executable, "-m", "app.cli", "models", *map(str, arguments)],
            cwd=home,
            env=own | {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"} | environ,
            input=typed,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.status, self.output, self.errors = ended.returncode, ended.stdout, ended.stderr

    @property
    def json(self) -> Any:
        """What it printed for programs; it has to have gone well."""
        assert self.status == 0, self.errors
        return json.loads(self.output)

    @property
    def refusal(self) -> str:
        """The one sentence that it has to have ended with."""
        assert self.status == 1, self.output + self.errors
        last = self.errors.splitlines()[-1]
        assert last.startswith("Error: ")
        assert "Traceback" not in self.errors
        return last.removeprefix("Error: ")


Run = Callable[..., Ended]


@pytest.fixture
def models(tmp_path: Path) -> Run:
    """Runs the command."""

    def run(*arguments: object, typed: str = "", **environ: str) -> Ended:
        return Ended(tmp_path, *arguments, typed=typed, **environ)

    return run


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The hub's cache that it sees."""
    return tmp_path / "hf" / "hub"
