"""Tiny vision-language models, written and loaded once for the whole run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.fixtures import tiny_vlm
from tests.fixtures.vlm_library import Library, load_library


@pytest.fixture(scope="session")
def seeing_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model's folder by its name in tests.fixtures.tiny_vlm; not to be written to."""
    root = tmp_path_factory.mktemp("seeing")
    return cache(lambda name: getattr(tiny_vlm, name)(root / name))


@pytest.fixture(scope="session")
def library(seeing_folder: Callable[[str], Path]) -> Callable[[str], Library]:
    """The same, as mlx_vlm itself runs it."""
    return cache(lambda name: load_library(seeing_folder(name)))
