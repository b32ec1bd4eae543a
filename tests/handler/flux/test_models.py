"""Which model a folder is taken for."""

import json
from pathlib import Path
from typing import get_args

import pytest

from app.core.model_kind import kind_of
from app.errors import ModelLoadError
from app.handler.flux.models import IMAGE_MODELS, choose, with_repository
from app.settings import ConfigName, ModelSpec


def write(folder: Path, pipeline: str | None = None, *, guidance: bool | None = None) -> Path:
    """An image model's folder as far as it is looked at."""
    for part in ("transformer", "vae"):
        (folder / part).mkdir(parents=True)
    if pipeline is not None:
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    if guidance is not None:
        (folder / "transformer" / "config.json").write_text(json.dumps({"guidance_embeds": guidance}))
    return folder


def chosen(folder: Path, **settings: object) -> str:
    return choose(ModelSpec.model_validate({"model_path": str(folder), **settings}), folder).name


def test_every_name_in_the_settings_has_a_row() -> None:
    assert sorted(row.name for row in IMAGE_MODELS) == sorted(get_args(ConfigName))


@pytest.mark.parametrize(
    ("name", "pipeline", "expected"),
    [
        ("FLUX.1-schnell", "FluxPipeline", "flux-schnell"),
        ("FLUX.1-Krea-dev", "FluxPipeline", "flux-krea-dev"),
        ("mine", "FluxPipeline", "flux-dev"),
        ("models--schnell--FLUX.1-Krea-dev/snapshots/0123abc", "FluxPipeline", "flux-krea-dev"),
        ("FLUX.1-Kontext-dev", "FluxKontextPipeline", "flux-kontext-dev"),
        ("flux-kontext-dev-mflux-4bit", None, "flux-kontext-dev"),
        ("mine", "Flux2KleinPipeline", "flux2-klein-4b"),
        ("FLUX.2-klein-9B", "Flux2KleinPipeline", "flux2-klein-9b"),
        ("Qwen-Image-2512", "QwenImagePipeline", "qwen-image"),
        ("Qwen-Image-Edit-2509", "QwenImageEditPlusPipeline", "qwen-image-edit"),
        ("qwen-image-edit-6bit", None, "qwen-image-edit"),
        ("Z-Image-Turbo", "ZImagePipeline", "z-image-turbo"),
        ("FIBO", "BriaFiboPipeline", "fibo"),
        # The files say more than the name does.
        ("flux-schnell-like", "QwenImagePipeline", "qwen-image"),
    ],
)
def test_a_folder_is_known_by_its_files_and_its_name(
    tmp_path: Path, name: str, pipeline: str | None, expected: str
) -> None:
    folder = write(tmp_path / name, pipeline)
    assert chosen(folder) == expected
    assert kind_of(folder, None) == "images"


@pytest.mark.parametrize(
    ("name", "pipeline", "other"),
    [
        ("FLUX.2-klein-base-4B-4bit", "Flux2KleinPipeline", "flux2-klein-base-4b"),
        ("FLUX.2-klein-9b-kv", "Flux2KleinPipeline", "flux2-klein-9b-kv"),
        ("Qwen-Image-Edit-2511-8bit", "QwenImageEditPlusPipeline", "qwen-image-edit-2511"),
        ("Z-Image", "ZImagePipeline", "z-image"),
        ("Fibo-lite", "BriaFiboPipeline", "fibo-lite"),
        ("FLUX.1-Depth-dev", None, "dev-depth"),
    ],
)
def test_a_relative_of_a_served_model_is_not_taken_for_it(
    name: str, pipeline: str | None, other: str, tmp_path: Path
) -> None:
    """It would make poor pictures, or noise."""
    folder = write(tmp_path / name, pipeline)
    with pytest.raises(ModelLoadError, match=f"is {other}, by its name, which is not served"):
        chosen(folder)
    assert chosen(folder, config_name="flux2-klein-4b") == "flux2-klein-4b"


def test_a_flux_without_guidance_is_schnell(tmp_path: Path) -> None:
    assert chosen(write(tmp_path / "a", "FluxPipeline", guidance=False)) == "flux-schnell"
    assert chosen(write(tmp_path / "b", "FluxPipeline", guidance=True)) == "flux-dev"


def test_the_setting_wins(tmp_path: Path) -> None:
    assert chosen(write(tmp_path / "FLUX.1-schnell", "FluxPipeline"), config_name="flux-dev") == "flux-dev"


@pytest.mark.parametrize("pipeline", [None, "StableDiffusionPipeline"])
def test_an_unknown_folder_asks_for_the_setting(tmp_path: Path, pipeline: str | None) -> None:
    with pytest.raises(ModelLoadError, match="--config-name: flux-dev, flux-schnell"):
        chosen(write(tmp_path / "mine", pipeline))


@pytest.mark.parametrize("kind", ["image-generation", "image-edit"])
def test_a_folder_of_another_kind_is_no_image_model(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadError, match="no folders 'transformer' and 'vae'"):
        kind_of(tmp_path, kind)


def test_a_name_stands_for_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = with_repository(ModelSpec(model_path="z-image-turbo"))
    assert (found.model_path, found.config_name) == ("Tongyi-MAI/Z-Image-Turbo", "z-image-turbo")
    (tmp_path / "z-image-turbo").mkdir()
    mine = ModelSpec(model_path="z-image-turbo")
    assert with_repository(mine) is mine
