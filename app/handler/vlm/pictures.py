"""Uploaded pictures, decoded as the model is to see them. Runs in the prepare thread."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from app.core.conversation import Media
from app.errors import InvalidRequest
from app.handler.film import Film
from app.handler.media import ImageLimits, read_image

# OpenAI's meaning of `detail: low`: the longer side, in pixels.
_LOW_DETAIL_SIDE = 512
# A longest side that is longer than any model's is meant in pixels of the whole picture, as Qwen's processors have it.
_LONGEST_SIDE = 16384


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The largest picture that a model makes use of, as far as its processor says; None is no limit."""

    pixels: int | None = None
    side: int | None = None

    def holds(self, width: int, height: int) -> bool:
        """Whether the model sees a picture of this size as it is, or larger."""
        fits_side = self.side is None or max(width, height) <= self.side
        return fits_side and (self.pixels is None or width * height <= self.pixels)

    def __str__(self) -> str:
        return f"{self.pixels} pixels" if self.side is None else f"{self.side} pixels a side"


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is refused: files beyond `file`, and pictures beyond `model` unless they are to be scaled down."""

    file: ImageLimits
    model: ModelSize
    refuses_larger: bool


def read_picture(media: Media, place: str, limits: PictureLimits) -> Image.Image:
    """The picture, upright and in RGB; `place` is what the client calls it. Errors: InvalidRequest."""
    image = read_image(media.data, limits.file, place).convert("RGB")
    if media.detail == "low":
        image.thumbnail((_LOW_DETAIL_SIDE, _LOW_DETAIL_SIDE), Image.Resampling.BICUBIC)
    return _fitting(image, place, limits)


def frame_pictures(film: Film, place: str, limits: PictureLimits) -> list[Image.Image]:
    """A film's frames as pictures, for a model that takes no films. Errors: InvalidRequest."""
    return [_fitting(Image.fromarray(frame.transpose(1, 2, 0)), place, limits) for frame in film.frames]


def _fitting(image: Image.Image, place: str, limits: PictureLimits) -> Image.Image:
    if limits.refuses_larger and not limits.model.holds(*image.size):
        raise InvalidRequest(
            f"'{place}' has {image.width}x{image.height} pixels, and the model takes {limits.model}; scale it down, or "
            "start the server without --disable-auto-resize.",
            param=place,
        )
    return image


def model_size(image_processor: Any) -> ModelSize:
    """What a processor of one of the libraries scales larger pictures down to."""
    pixels = getattr(image_processor, "max_pixels", None)
    if isinstance(pixels, int):
        return ModelSize(pixels=pixels)
    size: Any = getattr(image_processor, "size", None)
    sides = [_side(size, name) for name in ("longest_edge", "height", "width", "shortest_edge")]
    longest = next((side for side in sides if side is not None), None)
    if longest is None:
        return ModelSize()
    return ModelSize(pixels=longest) if longest > _LONGEST_SIDE else ModelSize(side=longest)


def _side(size: Any, name: str) -> int | None:
    value = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return value if isinstance(value, int) else None
