"""A loaded image model of mflux, and one picture made with it, step by step."""

import copy
import importlib
import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mflux.cli.defaults.defaults import model_inference_steps
from mflux.models.common.config.model_config import AVAILABLE_MODELS, ModelConfig
from mflux.models.common.vae.vae_util import VAEUtil
from mflux.utils.image_util import ImageUtil
from mlx import nn
from PIL import Image

from app.handler.flux.models import ImageModel, read_json
from app.handler.flux.stepped import Pause, SteppedThread
from app.settings import ModelSpec

# What a folder may say of its own architecture, as diffusers writes it; mflux takes it for this family only.
_TRANSFORMER_FIELDS = (
    *("num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim"),
    *("mlp_ratio", "axes_dims_rope", "rope_theta"),
)
_TEXT_ENCODER_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "head_dim", "rope_theta", "rms_norm_eps"),
)
_WARM_UP_PIXELS = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to be made, with every choice made: sizes in pixels, `previews` the steps after which to show it."""

    prompt: str
    seed: int
    width: int
    height: int
    num_steps: int
    guidance: float | None = None
    negative_prompt: str | None = None
    sources: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    previews: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done, counted from 1."""

    number: int
    preview: Image.Image | None = None


class Pipeline:
    """A model and its weights. All of them belong to the `SteppedThread` that is given."""

    def __init__(self, model: ImageModel, source: str, spec: ModelSpec, thread: SteppedThread) -> None:
        self._model = model
        self._thread = thread
        self.num_steps = model_inference_steps(model.registry_name)
        # Those that generate, and last those that edit: often the same.
        self._modules: tuple[Any, ...] = thread.call(lambda: _load(model, source, spec))
        self._latents: Any = _named(model.latents)
        if spec.warmup:
            self._warm_up()

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers, by mflux's names for them."""
        return self._modules[0].tokenizers

    def make(self, picture: Picture) -> Generator[Step, None, Image.Image]:
        """One step of the denoising loop at a time, the last one before the picture is decoded; closing it stops it."""
        return self._thread.run(lambda pause: self._make(picture, pause))

    def close(self) -> None:
        """Free the weights."""
        self._thread.call(self._free)
        self._thread.end()

    def _free(self) -> None:
        self._modules = ()
        mx.clear_streams()

    def _warm_up(self) -> None:
        """Run the first step of a small picture, which shows whether the model can."""
        side = _WARM_UP_PIXELS
        blank = Image.new("RGB", (side, side))
        has_sources = self._model.generator is None
        steps = self.make(
            Picture(
                *("{}" if self._model.takes_json else "a cat", 0, side, side, 1, self._model.guidance),
                sources=(blank,) if has_sources else (),
                mask=blank if self._model.needs_mask else None,
            )
        )
        next(steps)
        steps.close()

    def _make(self, picture: Picture, pause: Pause) -> Image.Image:
        modules = self._modules[-1] if picture.sources else self._modules[0]
        watcher = _Watcher(self, picture, pause)
        modules.callbacks.register(watcher)
        try:
            return modules.generate_image(**self._arguments(picture)).image
        finally:
            for subscribers in vars(modules.callbacks).values():
                subscribers.clear()
            # mflux keeps what every prompt ever became.
            getattr(modules, "prompt_cache", {}).clear()

    def _arguments(self, picture: Picture) -> dict[str, Any]:
        """As `generate_image` of this model calls them; what is not asked for is left to it."""
        arguments: dict[str, Any] = {
            "seed": picture.seed,
            "prompt": picture.prompt,
            "num_inference_steps": picture.num_steps,
            "width": picture.width,
            "height": picture.height,
        }
        if picture.guidance is not None:
            arguments["guidance"] = picture.guidance
        if picture.negative_prompt is not None:
            arguments["negative_prompt"] = picture.negative_prompt
        if picture.mask is not None and self._model.mask_argument is not None:
            arguments[self._model.mask_argument] = picture.mask
        if picture.sources:
            # As it reads files; not all of its models do so with images, too.
            sources = [ImageUtil.load_image(source) for source in picture.sources]
            several = self._model.max_sources > 1
            arguments["image_paths" if several else "image_path"] = sources if several else sources[0]
        return arguments

    def decode(self, latents: mx.array, width: int, height: int) -> Image.Image:
        """What latents look like."""
        modules: Any = self._modules[0]
        unpacked = self._latents.unpack_latents(latents=latents, height=height, width=width)
        if hasattr(modules.vae, "decode_packed_latents"):
            decoded = modules.vae.decode_packed_latents(unpacked, tiling_config=modules.tiling_config)
        else:
            decoded = VAEUtil.decode(vae=modules.vae, latent=unpacked, tiling_config=modules.tiling_config)
        return ImageUtil.to_pil(decoded)


class _Watcher:
    """Stops mflux's denoising loop after each step, by the callbacks it has for that."""

    def __init__(self, pipeline: Pipeline, picture: Picture, pause: Pause) -> None:
        self._pipeline = pipeline
        self._picture = picture
        self._pause = pause
        self._before: mx.array | None = None

    def call_before_loop(self, latents: mx.array, **_: object) -> None:
        if self._picture.previews:
            self._before = latents

    def call_in_loop(self, t: int, latents: mx.array, config: Any, **_: object) -> None:
        # mflux does so after the callbacks: the pause would come before the step's work.
        mx.eval(latents)
        preview = self._preview(t, latents, config.scheduler.sigmas) if t + 1 in self._picture.previews else None
        if self._picture.previews:
            self._before = latents
        self._pause(Step(t + 1, preview))

    def _preview(self, t: int, latents: mx.array, sigmas: mx.array) -> Image.Image:
        """The picture if the last step's direction were kept to the end, where no noise is left (sigma 0)."""
        if self._before is None:
            raise RuntimeError("a step came before the loop")
        now, before = latents.astype(mx.float32), self._before.astype(mx.float32)
        direction = (now - before) / (sigmas[t + 1] - sigmas[t])
        clean = (now - sigmas[t + 1] * direction).astype(latents.dtype)
        return self._pipeline.decode(clean, self._picture.width, self._picture.height)


def preview_steps(num_previews: int, num_steps: int) -> frozenset[int]:
    """Steps spread evenly over the loop, never its last one, which the picture itself comes after."""
    spread = (math.ceil(number * num_steps / (num_previews + 1)) for number in range(1, num_previews + 1))
    return frozenset(step for step in spread if step < num_steps)


def _load(model: ImageModel, source: str, spec: ModelSpec) -> tuple[Any, ...]:
    """The modules that generate, and after them those that edit where they are others; of one set of weights."""
    options: dict[str, Any] = {"quantize": spec.quantize, "model_path": source}
    if spec.lora_paths:
        options |= {"lora_paths": list(spec.lora_paths), "lora_scales": list(spec.lora_scales) or None}
    cls = _named(model.generator or model.editor or "")
    modules: Any = cls(model_config=_config(model, Path(source)), **options)
    mx.eval(modules.parameters())
    if model.generator is None or model.editor is None:
        return (modules,)
    editor = _named(model.editor)
    twin = editor.__new__(editor)
    nn.Module.__init__(twin)
    dict.update(twin, modules)
    vars(twin).update(vars(modules))
    return modules, twin


def _config(model: ImageModel, folder: Path) -> ModelConfig:
    """The config of mflux, with the sizes that the folder's files give where they do."""
    config = copy.copy(AVAILABLE_MODELS[model.registry_name])
    for overrides, part, fields in (
        ("transformer_overrides", "transformer", _TRANSFORMER_FIELDS),
        ("text_encoder_overrides", "text_encoder", _TEXT_ENCODER_FIELDS),
    ):
        if known := getattr(config, overrides):
            found = read_json(folder / part / "config.json")
            setattr(config, overrides, known | {name: found[name] for name in fields if name in found})
    return config


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
