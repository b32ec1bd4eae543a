"""`make clients`: the official JavaScript clients against a real server that serves the sample models."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from app.core.machine import openblas
from tests.e2e.processes import ServerProcess

_HERE = Path(__file__).parent
_MODELS = "models: [{model_path: smollm2-135m-instruct}, {model_path: all-minilm-l6-v2}]\n"


def main() -> int:
    """Gives the tests' exit status."""
    with tempfile.TemporaryDirectory(prefix="clients-") as directory:
        config = Path(directory) / "models.yaml"
        config.write_text(_MODELS, encoding="utf-8")
        # These compute with the sample model, not with tiny ones.
        fast = {"LD_PRELOAD": str(openblas() or "")}
        with ServerProcess(Path(directory), "--config", config, environment=fast) as server:
            server.wait_until_ready()
            environment = {**os.environ, "SERVER_URL": server.url}
            return subprocess.run(["npm", "test"], cwd=_HERE, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
