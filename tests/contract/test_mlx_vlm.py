"""What this project relies on in mlx_vlm, beyond what its documents promise. A new version has to pass here first."""

import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from inspect import getsource, signature
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import pytest
from mlx_vlm.models import cache as vlm_cache

from app.handler.vlm.language import _MULTIMODAL_POSITIONS, LanguageSide
from app.handler.vlm.processor import TRUSTING
from tests.fixtures import tiny_vlm
from tests.fixtures.vlm_library import load_library

FAMILIES = Path(mlx_vlm.__file__).parent / "models"


def test_the_version_is_the_one_these_tests_were_written_for() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"mlx-vlm=={version('mlx-vlm')}" in pyproject["project"]["optional-dependencies"]["vision"]


def test_which_processors_run_code_unasked() -> None:
    """Those that say so themselves, and those that are made of them; the others serve kinds without a chat."""
    saying: set[str] = set()
    for path in FAMILIES.glob("*/*process*.py"):
        if "trust_remote_code=True" in path.read_text(encoding="utf-8"):
            saying.add(path.parent.name)
    made_of = {
        path.parent.name
        for path in FAMILIES.glob("*/*process*.py")
        for name in re.findall(r"from \.\.(\w+)[.\w]* import", path.read_text(encoding="utf-8"))
        if name in saying
    }
    assert saying | made_of == TRUSTING


@pytest.mark.parametrize("family", sorted(_MULTIMODAL_POSITIONS))
def test_the_families_that_are_given_positions_take_them(family: str) -> None:
    """Found in one place with three more arguments, and not looked for where they are given."""
    model: Any = import_module(f"mlx_vlm.models.{family}.language").LanguageModel
    assert [*signature(model.get_rope_index).parameters][1:] == [
        "input_ids",
        "image_grid_thw",
        "video_grid_thw",
        "attention_mask",
    ]
    classes = [one for one in model.__mro__ if one.__module__.startswith("mlx_vlm.models.")]
    source = "".join(map(getsource, classes))
    assert 'position_ids = kwargs.pop("position_ids", None)' in source
    assert "if position_ids is None and (" in source


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_positions_that_are_given_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    """Or a prompt would be read at the positions of the one before."""
    whole: Any = load_library(getattr(tiny_vlm, name)(tmp_path)).model
    language = LanguageSide(whole)
    cache = language.make_cache()
    for tokens in ([[5, 6, 7]], [[8]]):
        mx.eval(language(mx.array(tokens), cache=cache, position_shifts=mx.array([-1])))
    assert whole.language_model._rope_deltas is None
    assert whole.language_model._position_ids is None


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "smolvlm"])
def test_plain_caches_are_of_the_classes_that_are_put_in_other_words(name: str, tmp_path: Path) -> None:
    whole: Any = load_library(getattr(tiny_vlm, name)(tmp_path)).model
    kinds = {type(layer) for layer in vlm_cache.make_prompt_cache(whole.language_model)}
    assert kinds <= {vlm_cache.KVCache, vlm_cache.RotatingKVCache}
