from pathlib import Path

import pytest

from tests.fixtures import tiny_kokoro


@pytest.fixture(scope="session")
def kokoro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Kokoro; not to be written to."""
    return tiny_kokoro.write(tmp_path_factory.mktemp("models") / "kokoro")
