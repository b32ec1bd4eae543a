"""The process of `bench.raw`, as the one that the server takes turns with."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from app.bench.endpoint import CallFailed
from app.bench.figures import LoadFigures, load_figures
from app.bench.stream import Stream
from app.core.machine import worker_environment

_ROOT = Path(__file__).parents[1]


class LibraryProcess:
    """The library alone, in its process; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.raw", str(folder)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(os.environ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def load(self, texts: Sequence[str], num_tokens: Sequence[int]) -> LoadFigures:
        """The same job as the server's, from the chat template to the last token; waits for it. Errors: CallFailed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        try:
            self._process.stdin.write(json.dumps({"texts": list(texts), "num_tokens": list(num_tokens)}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise CallFailed("the library's process has ended") from None
        answer = self._process.stdout.readline()
        if not answer:
            raise CallFailed("the library's process has ended")
        done = json.loads(answer)
        return load_figures([Stream(done["started_s"], row, num_tokens=len(row)) for row in done["rows"]])
