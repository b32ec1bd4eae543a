"""Tiny models and their tokenizers, written and loaded once for the whole run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The models are imported when asked for: most tests need neither MLX nor transformers.
if TYPE_CHECKING:
    from tests.fixtures.tiny_lm import Loaded

FolderByName = Callable[[str], Path]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> FolderByName:
    """A model's folder by its name in tests.fixtures.tiny_lm; not to be written to."""
    from tests.fixtures import tiny_lm

    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else getattr(tiny_lm, name)(path)

    return folder


@pytest.fixture(scope="session")
def llama_folder(model_folder: FolderByName) -> Path:
    """A tiny llama with a byte-level tokenizer and a context of 512 tokens."""
    return model_folder("llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> "Loaded":
    """The same, loaded."""
    from tests.fixtures.tiny_lm import load_folder

    return load_folder(llama_folder)


@pytest.fixture(scope="session", params=["llama", "gemma3", "lfm2"])
def batched(request: pytest.FixtureRequest, model_folder: FolderByName) -> "Loaded":
    """One model of each kind of cache: plain, rotating and plain, arrays and plain."""
    from tests.fixtures.tiny_lm import load_folder

    return load_folder(model_folder(request.param))
