"""Tiny models in every form of cache; their heads are wide enough to be quantised in groups."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlx_lm import load
from mlx_lm.utils import quantize_model, save

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.quantized_cache import Quantization
from tests.fixtures import tiny_lm
from tests.fixtures.tiny_lm import Loaded, load_folder

_WIDE: dict[str, Callable[[Path], Path]] = {
    "llama": lambda folder: tiny_lm.llama(folder, head_dim=32),
    "gemma3": lambda folder: tiny_lm.gemma3(folder, head_dim=32),
    "lfm2": lambda folder: tiny_lm.lfm2(folder, num_heads=2),
}


@pytest.fixture(scope="session")
def wide_by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """One model of each kind of cache: plain, rotating and plain, arrays and plain."""
    root = tmp_path_factory.mktemp("wide")
    return {name: load_folder(write(root / name)) for name, write in _WIDE.items()}


@pytest.fixture(scope="session", params=_WIDE)
def wide(request: pytest.FixtureRequest, wide_by_name: dict[str, Loaded]) -> Loaded:
    """Each of them."""
    return wide_by_name[request.param]


@pytest.fixture(scope="session")
def wide_llama(wide_by_name: dict[str, Loaded]) -> Loaded:
    """The first of them."""
    return wide_by_name["llama"]


@pytest.fixture(scope="session")
def form_by_name(wide_by_name: dict[str, Loaded]) -> Callable[[str], CacheForm]:
    """Of every kind of cache, those that settings ask for included."""

    def form(name: str) -> CacheForm:
        match name:
            case "few bits":
                return CacheForm(wide_by_name["llama"].model, Quantization(8, 32))
            case "window":
                return CacheForm(wide_by_name["llama"].model, window=32)
            case _:
                return CacheForm(wide_by_name[name].model)

    return form


@pytest.fixture(scope="session", params=[*_WIDE, "few bits", "window"])
def any_form(request: pytest.FixtureRequest, form_by_name: Callable[[str], CacheForm]) -> CacheForm:
    """Each of them."""
    return form_by_name(request.param)


@pytest.fixture(scope="session", params=["llama", "gemma3", "few bits", "window"])
def any_mixing_form(request: pytest.FixtureRequest, form_by_name: Callable[[str], CacheForm]) -> CacheForm:
    """Those whose prompts and rows can share a pass."""
    return form_by_name(request.param)


@pytest.fixture(scope="session")
def plain_form(llama: Loaded) -> CacheForm:
    """Plain keys and values in every layer."""
    return CacheForm(llama.model)


@pytest.fixture(scope="session")
def quantised_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama in eight bits."""
    folder = tmp_path_factory.mktemp("quantised") / "model"
    model, tokenizer, config = load(str(llama_folder), return_config=True)  # type: ignore[misc]
    model, config = quantize_model(model, config, group_size=32, bits=8)
    save(folder, str(llama_folder), model, tokenizer, config)
    return folder
