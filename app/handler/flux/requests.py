"""What a request for images asks of one model: checked, its files read, what it leaves open decided.

Runs in the worker's prepare thread.
"""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageOps

from app.core.events import ImageUsage
from app.core.requests import ImageEffort, ImageFormat, ImageRequest
from app.errors import ContextLengthExceeded, InvalidRequest
from app.handler.flux.models import ImageModel
from app.handler.flux.pipeline import Picture, preview_steps
from app.handler.media import ImageLimits, read_image

_SIDE = 1024
_PATCH = 16
_MAX_STEPS = 200
# Of the model's own number of steps.
_STEPS_OF_EFFORT: dict[ImageEffort, float] = {"low": 0.5, "medium": 1, "high": 2}


@dataclass(frozen=True, slots=True)
class PreparedImages:
    """The pictures of one request, and how they are sent; the usage is that of the first."""

    pictures: tuple[Picture, ...]
    file_format: ImageFormat
    compression: int | None
    usage: ImageUsage


class PromptTokens:
    """Counts what a prompt is to the model's text encoder. Owned by the prepare thread once the model is loaded."""

    def __init__(self, tokenizers: dict[str, Any]) -> None:
        # FLUX.1 has two, of which the one with the shorter limit is meant to see the beginning only.
        wrapper = max(tokenizers.values(), key=lambda one: one.max_length)
        self.max_tokens: int = wrapper.max_length
        self._wrapper = wrapper
        # A copy: the model's own is used by the main thread, and sets padding and truncation as it goes.
        self._tokenizer = copy.deepcopy(wrapper.tokenizer)

    def count(self, prompt: str) -> int:
        """Tokens with the words that the model has around every prompt."""
        wrapper, tokenizer = self._wrapper, self._tokenizer
        text = prompt
        if template := getattr(wrapper, "template", None):
            text = template.format(prompt)
        elif getattr(wrapper, "use_chat_template", False):
            messages = [{"role": "user", "content": prompt}]
            options = wrapper.chat_template_kwargs
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        special = getattr(wrapper, "add_special_tokens", True)
        tokens = tokenizer([text], padding=False, truncation=False, add_special_tokens=special, verbose=False)
        return len(tokens["input_ids"][0])


@dataclass(frozen=True, slots=True)
class ImageDesk:
    """Prepares the requests for one model."""

    model: ImageModel
    num_steps: int
    tokens: PromptTokens
    max_pixels: int
    limits: ImageLimits

    def prepare(self, request: ImageRequest) -> PreparedImages:
        """Errors: InvalidRequest that names the field."""
        self._check_fields(request)
        num_tokens = self._check_prompt("prompt", request.prompt)
        if request.negative_prompt is not None:
            self._check_prompt("negative_prompt", request.negative_prompt)
        sources = tuple(self._source(name, data) for name, data in _named_sources(request))
        mask = None if request.mask is None else _mask(read_image(request.mask, self.limits, "mask"), sources[0])
        width, height = self._size(request, sources)
        num_steps = self._num_steps(request)
        first = Picture(
            *(request.prompt, request.seed, width, height, num_steps),
            guidance=self.model.guidance if request.guidance is None else request.guidance,
            negative_prompt=request.negative_prompt,
            sources=sources,
            mask=mask,
            previews=preview_steps(request.num_previews, num_steps),
        )
        usage = ImageUsage(
            num_tokens, sum(_num_patches(*_capped(*one.size)) for one in sources), _num_patches(width, height)
        )
        pictures = (replace(first, seed=first.seed + place) for place in range(request.num_images))
        return PreparedImages(tuple(pictures), request.file_format, request.compression, usage)

    def _check_fields(self, request: ImageRequest) -> None:
        model = self.model
        if request.sources and model.editor is None:
            raise InvalidRequest(
                f"A {model.name} makes images of text only; use /v1/images/generations.", param="image"
            )
        if not request.sources and model.generator is None:
            raise InvalidRequest(f"A {model.name} changes images; use /v1/images/edits.", param="image")
        if len(request.sources) > model.max_sources:
            count = f"{len(request.sources)} images were sent; a {model.name} takes {model.max_sources}."
            raise InvalidRequest(count, param="image")
        if request.mask is not None and model.mask_argument is None:
            raise InvalidRequest(f"A {model.name} takes no mask; leave it out.", param="mask")
        if model.needs_mask and request.mask is None:
            raise InvalidRequest(f"A {model.name} needs a mask of what it is to fill.", param="mask")
        if request.guidance is not None and model.guidance is None:
            raise InvalidRequest(f"A {model.name} is made to run without guidance; leave it out.", param="guidance")
        if request.negative_prompt is not None and not model.takes_negative_prompt:
            raise InvalidRequest(
                f"A {model.name} has no use for a negative prompt; leave it out.", param="negative_prompt"
            )

    def _check_prompt(self, param: str, text: str) -> int:
        """The number of its tokens; longer ones would be cut off without a word."""
        if param == "prompt" and self.model.takes_json and not _is_object(text):
            raise InvalidRequest(
                f"A {self.model.name} takes a JSON object for a prompt, as its authors describe.", param=param
            )
        count = self.tokens.count(text)
        if count > self.tokens.max_tokens:
            raise ContextLengthExceeded(
                f"'{param}' has {count} tokens, and this model reads {self.tokens.max_tokens}; shorten it.", param=param
            )
        return count

    def _source(self, param: str, data: bytes) -> Image.Image:
        image = read_image(data, self.limits, param)
        if min(image.size) * _scale(*image.size, _SIDE * _SIDE) < _PATCH:
            raise InvalidRequest(
                f"'{param}' is {image.width}x{image.height}; the model sees {_PATCH} pixels at a time.",
                param=param,
            )
        return image

    def _num_steps(self, request: ImageRequest) -> int:
        if request.num_steps is not None and request.effort != "medium":
            raise InvalidRequest(
                "'quality' chooses the number of steps; send it or 'steps', not both.", param="quality"
            )
        if request.num_steps is not None and request.num_steps > _MAX_STEPS:
            raise InvalidRequest(f"'steps' is {request.num_steps}, and {_MAX_STEPS} are the limit.", param="steps")
        return request.num_steps or math.ceil(self.num_steps * _STEPS_OF_EFFORT[request.effort])

    def _size(self, request: ImageRequest, sources: tuple[Image.Image, ...]) -> tuple[int, int]:
        """What is asked for; else a square, or the shape of the first source."""
        if request.size is not None:
            width, height = request.size
            if width * height > self.max_pixels:
                raise InvalidRequest(
                    f"'size' is {width}x{height}, and {self.max_pixels} pixels are the limit (--max-image-pixels).",
                    param="size",
                )
            return width, height
        width, height = _capped(*sources[0].size) if sources else (_SIDE, _SIDE)
        return _capped(width, height, self.max_pixels)


def _capped(width: int, height: int, max_pixels: int = _SIDE * _SIDE) -> tuple[int, int]:
    """The same shape with no more pixels than that, in whole patches."""
    scale = _scale(width, height, max_pixels)
    return _in_patches(width * scale), _in_patches(height * scale)


def _scale(width: int, height: int, max_pixels: int) -> float:
    return min(1.0, math.sqrt(max_pixels / (width * height)))


def _in_patches(side: float) -> int:
    return max(_PATCH, int(side) // _PATCH * _PATCH)


def _num_patches(width: int, height: int) -> int:
    return math.ceil(width / _PATCH) * math.ceil(height / _PATCH)


def _named_sources(request: ImageRequest) -> Iterator[tuple[str, bytes]]:
    for place, data in enumerate(request.sources):
        yield "image" if len(request.sources) == 1 else f"image[{place}]", data


def _mask(given: Image.Image, source: Image.Image) -> Image.Image:
    """White where the picture may change: where the mask is transparent, or white if it has no transparency."""
    if given.size != source.size:
        raise InvalidRequest(
            f"'mask' has {given.width}x{given.height} pixels and 'image' {source.width}x{source.height}; "
            "send one of the same size.",
            param="mask",
        )
    if given.has_transparency_data:
        return ImageOps.invert(given.convert("RGBA").getchannel("A"))
    return given.convert("L")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
