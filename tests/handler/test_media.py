import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.handler.media import ImageLimits, read_image
from tests.fixtures.pictures import Format, bomb, encoded, picture

LIMITS = ImageLimits(max_pixels=10_000, max_bytes=100_000)
ORIENTATION = 0x0112


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_image(data, limits, "image[1]")
    assert caught.value.param == "image[1]"
    return caught.value.message


@pytest.mark.parametrize("file_format", ["png", "bmp", "gif", "webp"])
def test_what_is_stored_exactly_is_read_exactly(file_format: Format) -> None:
    image = picture(40, 30).quantize(16)
    options = {"lossless": True} if file_format == "webp" else {}
    shown = image.convert("RGB") if file_format == "webp" else image
    read = read_image(encoded(shown, file_format, **options), LIMITS, "image")
    assert np.array_equal(np.asarray(read.convert("RGB")), np.asarray(image.convert("RGB")))


def test_transparency_is_kept() -> None:
    image = picture(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert read_image(encoded(image), LIMITS, "image").tobytes() == image.tobytes()


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_a_photograph_is_turned_upright(file_format: Format) -> None:
    exif = Image.Exif()
    # Its first row is on the right: the camera was turned by a quarter.
    exif[ORIENTATION] = 6
    image = picture(40, 30)
    options = {"lossless": True} if file_format == "webp" else {}
    read = read_image(encoded(image, file_format, exif=exif, **options), LIMITS, "image")
    assert read.size == (30, 40)
    assert read.convert("RGB").tobytes() == image.rotate(-90, expand=True).tobytes()


def test_of_a_moving_image_the_first_frame_counts() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(first, "gif", save_all=True, append_images=[second])
    assert read_image(data, LIMITS, "image").convert("RGB").getpixel((0, 0)) == (255, 0, 0)


class TestRefusals:
    @pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 12_000), (101, 100)])
    def test_too_many_pixels_by_the_header_alone(self, size: tuple[int, int]) -> None:
        """There are no pixels behind this header: they would be found missing were it decoded."""
        message = refusal(bomb(*size))
        assert "pixels" in message
        assert "10000 are the limit" in message

    def test_the_limit_itself_is_read(self) -> None:
        assert read_image(encoded(picture(100, 100)), LIMITS, "image").size == (100, 100)

    def test_too_many_bytes(self) -> None:
        data = encoded(picture())
        assert f"has {len(data)} bytes" in refusal(data, ImageLimits(10_000, len(data) - 1))
        assert read_image(data, ImageLimits(10_000, len(data)), "image").size == (32, 32)

    def test_no_bytes(self) -> None:
        assert "is empty" in refusal(b"")

    @pytest.mark.parametrize(
        "data",
        [
            b"hello",
            b"\x89PNG\r\n\x1a\n",
            b"%PDF-1.7",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"RIFF\x00\x00\x00\x00WEBP",
        ],
    )
    def test_no_image(self, data: bytes) -> None:
        assert "is no image" in refusal(data)

    def test_a_format_that_is_not_taken(self) -> None:
        assert "is no image that can be read" in refusal(encoded(picture(), "tiff"))

    @pytest.mark.parametrize("file_format", ["png", "jpeg", "gif", "bmp"])
    def test_cut_off(self, file_format: Format) -> None:
        data = encoded(picture(90, 90), file_format)
        assert "damaged or cut off" in refusal(data[: len(data) // 2])
