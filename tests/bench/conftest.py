from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of random weights."""
    from tests.fixtures import tiny_lm

    return tiny_lm.llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def nano_model(tiny_model: Path) -> Path:
    """A smaller one, with room for long prompts, whose answers are words and do not end."""
    from bench.nano import write_nano

    return write_nano(tiny_model.with_name("nano"), tiny_model)
