"""The image endpoints on the wire.

Source: https://platform.openai.com/docs/api-reference/images. `seed`, `steps`, `guidance` and `negative_prompt` are
what servers of open models add.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, Field
from pydantic_core import PydanticCustomError

from app.schemas.base import PositiveInt, WireModel, refused_unless

MAX_PROMPT_CHARACTERS = 32_000
MAX_SIDE = 8192
PATCH = 16

Quality = Literal["auto", "low", "medium", "high", "standard", "hd"]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
# Those that mflux's random keys, and the seeds after it for further images, have room for.
ImageSeed = Annotated[int, Field(ge=0, le=2**32 - 1)]


def _check_size(value: str) -> str:
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value, re.ASCII)
    fits = sides is not None and all(0 < int(side) <= MAX_SIDE and int(side) % PATCH == 0 for side in sides.groups())
    if value != "auto" and not fits:
        raise PydanticCustomError(
            "image_size",
            "Must be auto, or a width and a height such as 1024x768: multiples of {step} up to {most}",
            {"step": PATCH, "most": MAX_SIDE},
        )
    return value


class ImageFields(WireModel):
    """What both ways to an image have in common."""

    prompt: Prompt
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: Annotated[str, AfterValidator(_check_size)] | None = None
    quality: Quality | None = None
    output_format: Literal["png", "jpeg", "jpg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    seed: ImageSeed | None = None
    steps: PositiveInt | None = Field(None, validation_alias=AliasChoices("steps", "num_inference_steps"))
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = Field(
        None, validation_alias=AliasChoices("guidance", "guidance_scale")
    )
    negative_prompt: Prompt | None = None
    # Nothing is moderated and nobody is told apart by them: said about the request, not asked of the model.
    moderation: Literal["auto", "low"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    # What these models do not do.
    background: Annotated[str | None, refused_unless("auto", "opaque")] = None
    style: Annotated[str | None, refused_unless()] = None
    complexity: Annotated[str | None, refused_unless()] = None

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """Width and height; None for the model's choice."""
        if self.size in (None, "auto"):
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height)


class ImageGenerationRequest(ImageFields):
    """The body of an image generation request."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {"examples": [{"prompt": "A lighthouse in a storm", "size": "1024x1024"}]}
    }


class ImageEditFields(ImageFields):
    """The fields of an image edit form, beside its files `image` and `mask`."""

    input_fidelity: Annotated[str | None, refused_unless("low")] = None


class MadeImage(BaseModel):
    """One image: as base64, or a URL that works for an hour."""

    b64_json: str | None = None
    url: str | None = None


class ImageInputDetails(BaseModel):
    """The two kinds of input tokens."""

    text_tokens: int
    image_tokens: int


class ImageTokens(BaseModel):
    """Tokens of the prompt, and patches of 16 x 16 pixels of the images."""

    input_tokens: int
    input_tokens_details: ImageInputDetails
    output_tokens: int
    total_tokens: int


class ImagesReply(BaseModel):
    """The images, in the order of their seeds."""

    created: int
    data: list[MadeImage]
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["low", "medium", "high"]
    size: str
    usage: ImageTokens
