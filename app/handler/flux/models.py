"""The image models that are served, as mflux has them: a row each, and how a folder is told which it is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.errors import ModelLoadError
from app.settings import ConfigName, ModelSpec

_FLUX1 = "mflux.models.flux.variants"
_FLUX1_LATENTS = "mflux.models.flux.latent_creator.flux_latent_creator:FluxLatentCreator"
_FLUX2 = "mflux.models.flux2.variants"
_QWEN = "mflux.models.qwen.variants"
_FIBO = "mflux.models.fibo.variants"


@dataclass(frozen=True, slots=True)
class ImageModel:
    """How one of mflux's models is called; classes are written `module:Class`.

    `registry_name` is mflux's own. A model with both classes has one set of weights for both.
    """

    name: ConfigName
    registry_name: str
    # On the Hugging Face hub.
    repository: str
    # In diffusers' model_index.json.
    folder_classes: tuple[str, ...]
    latents: str
    generator: str | None = None
    editor: str | None = None
    # What it takes, where it differs from the usual.
    guidance: float | None = None
    takes_negative_prompt: bool = False
    takes_loras: bool = True
    takes_json: bool = False
    max_sources: int = 1
    mask_argument: Literal["mask_path", "masked_image_path"] | None = None
    needs_mask: bool = False


def _flux1(name: ConfigName, registry_name: str, repository: str, guidance: float | None) -> ImageModel:
    return ImageModel(
        *(name, registry_name, repository, ("FluxPipeline",), _FLUX1_LATENTS),
        generator=f"{_FLUX1}.txt2img.flux:Flux1",
        guidance=guidance,
    )


def _klein(name: ConfigName, registry_name: str, repository: str) -> ImageModel:
    return ImageModel(
        *(name, registry_name, repository, ("Flux2KleinPipeline", "Flux2Pipeline")),
        latents="mflux.models.flux2.latent_creator.flux2_latent_creator:Flux2LatentCreator",
        generator=f"{_FLUX2}.txt2img.flux2_klein:Flux2Klein",
        editor=f"{_FLUX2}.edit.flux2_klein_edit:Flux2KleinEdit",
        max_sources=10,
    )


# Of rows with one folder class, the first is the one that a folder without a telling name is.
IMAGE_MODELS: tuple[ImageModel, ...] = (
    _flux1("flux-dev", "dev", "black-forest-labs/FLUX.1-dev", 3.5),
    _flux1("flux-schnell", "schnell", "black-forest-labs/FLUX.1-schnell", None),
    _flux1("flux-krea-dev", "krea-dev", "black-forest-labs/FLUX.1-Krea-dev", 3.5),
    ImageModel(
        *(
            "flux-kontext-dev",
            "dev-kontext",
            "black-forest-labs/FLUX.1-Kontext-dev",
            ("FluxKontextPipeline",),
            _FLUX1_LATENTS,
        ),
        editor=f"{_FLUX1}.kontext.flux_kontext:Flux1Kontext",
        guidance=2.5,
    ),
    ImageModel(
        *("flux-fill-dev", "dev-fill", "black-forest-labs/FLUX.1-Fill-dev", ("FluxFillPipeline",), _FLUX1_LATENTS),
        editor=f"{_FLUX1}.fill.flux_fill:Flux1Fill",
        guidance=30.0,
        mask_argument="masked_image_path",
        needs_mask=True,
    ),
    ImageModel(
        *("qwen-image", "qwen-image", "Qwen/Qwen-Image-2512", ("QwenImagePipeline",)),
        latents="mflux.models.qwen.latent_creator.qwen_latent_creator:QwenLatentCreator",
        generator=f"{_QWEN}.txt2img.qwen_image:QwenImage",
        guidance=4.0,
        takes_negative_prompt=True,
    ),
    ImageModel(
        *(
            "qwen-image-edit",
            "qwen-image-edit",
            "Qwen/Qwen-Image-Edit-2509",
            ("QwenImageEditPlusPipeline", "QwenImageEditPipeline"),
        ),
        latents="mflux.models.qwen.latent_creator.qwen_latent_creator:QwenLatentCreator",
        editor=f"{_QWEN}.edit.qwen_image_edit:QwenImageEdit",
        guidance=4.0,
        takes_negative_prompt=True,
        max_sources=3,
    ),
    ImageModel(
        *("z-image-turbo", "z-image-turbo", "Tongyi-MAI/Z-Image-Turbo", ("ZImagePipeline",)),
        latents="mflux.models.z_image.latent_creator.z_image_latent_creator:ZImageLatentCreator",
        generator="mflux.models.z_image.variants.z_image:ZImage",
    ),
    ImageModel(
        *("fibo", "fibo", "briaai/FIBO", ("BriaFiboPipeline",)),
        latents="mflux.models.fibo.latent_creator.fibo_latent_creator:FiboLatentCreator",
        generator=f"{_FIBO}.txt2img.fibo:FIBO",
        guidance=5.0,
        takes_negative_prompt=True,
        takes_loras=False,
        takes_json=True,
    ),
    ImageModel(
        *("fibo-edit", "fibo-edit", "briaai/Fibo-Edit", ("BriaFiboEditPipeline",)),
        latents="mflux.models.fibo.latent_creator.fibo_latent_creator:FiboLatentCreator",
        editor=f"{_FIBO}.edit.fibo_edit:FIBOEdit",
        guidance=3.5,
        takes_negative_prompt=True,
        takes_loras=False,
        takes_json=True,
        mask_argument="mask_path",
    ),
    _klein("flux2-klein-4b", "flux2-klein-4b", "black-forest-labs/FLUX.2-klein-4B"),
    _klein("flux2-klein-9b", "flux2-klein-9b", "black-forest-labs/FLUX.2-klein-9B"),
    _klein("flux2-klein-4b-edit", "flux2-klein-4b", "black-forest-labs/FLUX.2-klein-4B"),
    _klein("flux2-klein-9b-edit", "flux2-klein-9b", "black-forest-labs/FLUX.2-klein-9B"),
)


def with_repository(spec: ModelSpec) -> ModelSpec:
    """The same, where the model's path is one of the names above with its repository in place of it."""
    row = next((row for row in IMAGE_MODELS if row.name == spec.model_path), None)
    if row is None or Path(spec.model_path).exists():
        return spec
    return spec.model_copy(update={"model_path": row.repository, "config_name": row.name})


def choose(spec: ModelSpec, folder: Path) -> ImageModel:
    """Which model the settings name; else the folder's own files and name. Errors: ModelLoadError."""
    rows = [row for row in IMAGE_MODELS if spec.config_name in (None, row.name)]
    if spec.config_name is not None:
        return rows[0]
    known = ", ".join(row.name for row in IMAGE_MODELS)
    name = _plain(_own_name(Path(spec.model_path)))
    if other := _other_model(name):
        raise ModelLoadError(
            f"'{spec.model_path}' is {other}, by its name, which is not served here; if it is one of these, say"
            f" so with --config-name: {known}."
        )
    index = read_json(folder / "model_index.json")
    by_class = [row for row in rows if index.get("_class_name") in row.folder_classes]
    named = [row for row in by_class or rows if _is_named(row, name)]
    if named:
        return max(named, key=lambda row: len(row.name))
    if by_class and by_class[0].name == "flux-dev" and not _has_guidance(folder):
        return by_class[1]
    if by_class:
        return by_class[0]
    found = f"a {index['_class_name']}, which is none of the models served here" if index else "of unknown make"
    raise ModelLoadError(f"'{spec.model_path}' is {found}; if it is one of them, say so with --config-name: {known}.")


def _own_name(folder: Path) -> str:
    """A folder's name; in the hub's cache (models--OWNER--NAME/snapshots/COMMIT) that of its repository."""
    return folder.parents[1].name.rpartition("--")[2] if folder.parent.name == "snapshots" else folder.name


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _other_model(folder_name: str) -> str | None:
    """What mflux calls a folder's model by its name, where that is none of the rows above; it may have their class."""
    # Imported when asked for: who looks for a name's repository has no use for it.
    from mflux.models.common.config.model_config import AVAILABLE_MODELS

    names = {key: _plain(config.model_name.rpartition("/")[2]) for key, config in AVAILABLE_MODELS.items()}
    longest = max((name for name in names.values() if name in folder_name), key=len, default=None)
    called = [key for key, name in names.items() if name == longest]
    is_served = any(row.registry_name in called for row in IMAGE_MODELS)
    return None if is_served or not called else called[0]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _is_named(row: ImageModel, folder_name: str) -> bool:
    """Whether each word of a row's name is in a folder's: "flux1kreadev" is a flux-krea-dev."""
    return all(word in folder_name for word in row.name.split("-"))


def _has_guidance(folder: Path) -> bool:
    """FLUX.1-schnell is the one that has none."""
    return bool(read_json(folder / "transformer" / "config.json").get("guidance_embeds", True))
