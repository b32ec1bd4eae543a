"""What is relied on in mflux: every row of the table calls what is there, the way it is called."""

import importlib
import inspect
from typing import Any

import pytest
from mflux.callbacks.callback_registry import CallbackRegistry
from mflux.cli.defaults.defaults import MODEL_INFERENCE_STEPS
from mflux.models.common.config.model_config import AVAILABLE_MODELS
from mflux.models.flux2.variants.edit.flux2_klein_edit import Flux2KleinEdit
from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein

from app.handler.flux.models import IMAGE_MODELS, ImageModel

ALWAYS = {"seed", "prompt", "num_inference_steps", "width", "height"}

by_row = pytest.mark.parametrize("row", IMAGE_MODELS, ids=lambda row: row.name)


def named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@by_row
def test_the_registry_knows_it(row: ImageModel) -> None:
    assert AVAILABLE_MODELS[row.registry_name].model_name == row.repository
    assert MODEL_INFERENCE_STEPS[row.registry_name] >= 1


@by_row
def test_its_latents_can_be_unpacked(row: ImageModel) -> None:
    parameters = inspect.signature(named(row.latents).unpack_latents).parameters
    assert [*parameters][:3] == ["latents", "height", "width"]


@by_row
def test_it_takes_what_it_is_called_with(row: ImageModel) -> None:
    assert row.generator or row.editor
    for path in filter(None, (row.generator, row.editor)):
        loaded = {*inspect.signature(named(path).__init__).parameters}
        assert {"quantize", "model_path", "model_config"} <= loaded
        assert row.takes_loras == ({"lora_paths", "lora_scales"} <= loaded)
        called = inspect.signature(named(path).generate_image).parameters
        assert called.keys() >= ALWAYS
        assert row.guidance is None or "guidance" in called
        assert not row.takes_negative_prompt or "negative_prompt" in called
        assert row.needs_mask == (
            row.mask_argument is not None and called[row.mask_argument].default is inspect.Parameter.empty
        )
        if path == row.editor:
            assert ("image_paths" if row.max_sources > 1 else "image_path") in called


def test_guidance_is_taken_by_those_that_mflux_says_take_it() -> None:
    """The klein models are said to, but only their base models do, as its command line explains."""
    for row in IMAGE_MODELS:
        if not row.name.startswith("flux2-klein"):
            assert (row.guidance is not None) == (AVAILABLE_MODELS[row.registry_name].supports_guidance is not False)


def test_one_set_of_weights_is_enough_for_both_of_the_klein_classes() -> None:
    assert inspect.signature(Flux2Klein.__init__) == inspect.signature(Flux2KleinEdit.__init__)


def test_the_callbacks_of_a_model_are_the_lists_of_its_registry() -> None:
    registry = CallbackRegistry()
    assert {*vars(registry)} == {"in_loop", "before_loop", "interrupt", "after_loop"}
    assert all(subscribers == [] for subscribers in vars(registry).values())
