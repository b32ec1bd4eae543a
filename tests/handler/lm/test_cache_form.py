"""Which caches the settings make of a model's, and which models are refused."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from app.errors import ModelLoadError
from app.handler.lm.handler import LMHandler
from app.handler.lm.kv.cache_form import CacheForm, open_cache_form
from app.handler.lm.kv.quantized_cache import Quantization, QuantizedCache
from app.handler.lm.kv.window_cache import WindowCache
from app.settings import ModelSpec
from tests.conftest import FolderByName
from tests.fixtures import odd_models
from tests.fixtures.driving import Log
from tests.fixtures.prefix_caches import tokens_of
from tests.fixtures.tiny_lm import Loaded, load_folder


def in_few_bits(model: nn.Module) -> CacheForm:
    return open_cache_form(ModelSpec(kv_bits=8, kv_group_size=32), model)


def test_without_a_setting_the_caches_are_the_models_own(batched: Loaded) -> None:
    form = open_cache_form(ModelSpec(), batched.model)
    assert [type(layer) for layer in form.new()] == [type(layer) for layer in make_prompt_cache(batched.model)]
    assert form.can_batch
    assert form.name == ""


def test_layers_that_keep_every_token_are_quantised_and_no_others(wide: Loaded) -> None:
    form = in_few_bits(wide.model)
    plain = make_prompt_cache(wide.model)
    assert [type(layer) for layer in form.new()] == [
        QuantizedCache if isinstance(layer, KVCache) else type(layer) for layer in plain
    ]
    assert form.can_batch
    assert form.quantization == Quantization(8, 32, is_attended=True)


@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3"])
def test_attention_of_its_own_kind_is_given_the_restored_numbers(name: str) -> None:
    model = getattr(odd_models, name)()
    form = in_few_bits(model)
    assert form.quantization == Quantization(8, 32, is_attended=False)
    tokens, cache = tokens_of(1, 50), form.new()
    logits = [model(mx.array([part]), cache=cache)[0] for part in (tokens[:40], *([token] for token in tokens[40:]))]
    exact = np.array(model(mx.array([tokens]))[0])
    error = np.array(mx.concatenate(logits)) - exact
    assert 0 < np.sqrt((error**2).mean()) < 0.03 * exact.std()


@pytest.mark.parametrize("model", ["gemma3", "lfm2"])
def test_a_window_is_for_models_without_one(model: str, model_folder: FolderByName, llama: Loaded) -> None:
    form = open_cache_form(ModelSpec(max_kv_size=16), llama.model)
    assert {type(layer) for layer in form.new()} == {WindowCache}
    assert (form.can_batch, form.can_trim) == (True, False)
    with pytest.raises(ModelLoadError, match="--max-kv-size"):
        open_cache_form(ModelSpec(max_kv_size=16), load_folder(model_folder(model)).model)


def test_what_cannot_be_quantised_is_refused(llama: Loaded) -> None:
    with pytest.raises(ModelLoadError, match=r"--kv-group-size 32 .* \(16\)"):
        in_few_bits(llama.model)
    with pytest.raises(ModelLoadError, match="no layer"):
        in_few_bits(odd_models.mamba())
    with pytest.raises(ModelLoadError, match="either"):
        open_cache_form(ModelSpec(kv_bits=8, max_kv_size=16), llama.model)


class _OwnHands(nn.Module):
    """A model that reaches into its cache, as a few of mlx_lm's do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.layers = model.layers

    def __call__(self, tokens: mx.array, cache: list[KVCache]) -> mx.array:
        logits: mx.array = self.model(tokens, cache=cache)
        assert cache[0].keys is not None
        cache[0].keys = mx.depends(cache[0].keys, logits)
        return logits


def test_a_model_that_reaches_into_its_cache_is_refused(wide_llama: Loaded) -> None:
    with pytest.raises(ModelLoadError, match="attention cannot run on a quantised"):
        in_few_bits(_OwnHands(wide_llama.model))
    with pytest.raises(ModelLoadError, match="attention cannot run in a window"):
        open_cache_form(ModelSpec(max_kv_size=16), _OwnHands(wide_llama.model))


def test_forms_whose_contents_differ_have_different_names(llama: Loaded) -> None:
    forms = [
        CacheForm(llama.model),
        CacheForm(llama.model, Quantization(8, 32)),
        CacheForm(llama.model, Quantization(4, 32)),
        CacheForm(llama.model, Quantization(8, 64)),
        CacheForm(llama.model, window=16),
        CacheForm(llama.model, window=17),
    ]
    assert len({form.name for form in forms}) == len(forms)
    assert CacheForm(llama.model, Quantization(8, 32, is_attended=False)).name == forms[1].name


def test_a_worker_says_so_when_it_loads(llama_folder: Path) -> None:
    for settings, said in (
        ({"kv_bits": 8}, "--kv-group-size 64"),
        ({"max_kv_size": 16, "draft_model_path": str(llama_folder)}, "--max-kv-size"),
    ):
        spec = ModelSpec.model_validate({"model_path": str(llama_folder), "warmup": False, **settings})
        with pytest.raises(ModelLoadError, match=said):
            LMHandler(llama_folder, spec, Log().emit).load()
