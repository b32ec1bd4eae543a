from types import SimpleNamespace

import pytest

from app.core.conversation import Media
from app.handler.media import ImageLimits
from app.handler.vlm.pictures import ModelSize, PictureLimits, model_size, read_picture
from tests.fixtures.pictures import encoded, picture


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"max_pixels": 50176, "size": {"longest_edge": 50176}}, ModelSize(pixels=50176)),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, ModelSize(pixels=12845056)),
        ({"size": {"longest_edge": 1456}}, ModelSize(side=1456)),
        ({"size": {"height": 896, "width": 896}}, ModelSize(side=896)),
        ({"size": {"shortest_edge": 336}}, ModelSize(side=336)),
        ({"size": None}, ModelSize()),
        ({}, ModelSize()),
    ],
)
def test_what_processors_say_of_sizes(said: dict[str, object], size: ModelSize) -> None:
    assert model_size(SimpleNamespace(**said)) == size


@pytest.mark.parametrize(
    ("size", "width", "height", "holds"),
    [
        (ModelSize(), 9999, 9999, True),
        (ModelSize(pixels=100), 50, 2, True),
        (ModelSize(pixels=100), 51, 2, False),
        (ModelSize(side=100), 100, 100, True),
        (ModelSize(side=100), 101, 1, False),
    ],
)
def test_what_fits(size: ModelSize, width: int, height: int, *, holds: bool) -> None:
    assert size.holds(width, height) is holds


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_a_picture_is_in_three_colours(mode: str) -> None:
    limits = PictureLimits(ImageLimits(10_000), ModelSize(side=10), refuses_larger=False)
    read = read_picture(Media("image", encoded(picture(40, 30, mode)), 0), "here", limits)
    assert (read.mode, read.size) == ("RGB", (40, 30))
