import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mflux.models.flux2.variants.edit.flux2_klein_edit import Flux2KleinEdit
from mflux.models.flux2.variants.txt2img.flux2_klein import Flux2Klein
from PIL import Image

from app.core.events import Event, Failed, ImageMade, ImagePreview, ImageProgress, ImagesFinished, ImageUsage
from app.core.requests import ImageRequest
from app.errors import ContextLengthExceeded, InvalidRequest, ModelLoadError
from app.handler.flux.handler import FluxHandler, _encode
from app.handler.open import open_handler
from app.settings import ModelSpec
from tests.fixtures import tiny_flux
from tests.fixtures.driving import run
from tests.fixtures.pictures import decoded, encoded, picture
from tests.handler.flux.conftest import Bench

TALL = encoded(picture(16, 32))
WIDE = encoded(picture(32, 16))


def made(events: Sequence[Event]) -> list[ImageMade]:
    return [event for event in events if isinstance(event, ImageMade)]


def pixels(image: ImageMade | ImagePreview | Image.Image) -> bytes:
    shown = image if isinstance(image, Image.Image) else decoded(image.data)
    assert shown.mode == "RGB"
    return shown.tobytes()


def by_library(cls: type[Flux2Klein | Flux2KleinEdit], folder: Path, **arguments: Any) -> Image.Image:
    """The picture as mflux itself makes it."""
    model = cls(model_path=str(folder), model_config=tiny_flux.config())
    return model.generate_image(num_inference_steps=2, width=16, height=16, **arguments).image


def test_what_it_says_of_itself(bench: Bench) -> None:
    assert (bench.info.kind, bench.info.architecture, bench.info.context_length) == ("images", "flux2-klein-4b", 512)


class TestPictures:
    def test_each_is_what_mflux_makes_with_its_seed(self, bench: Bench, flux_folder: Path) -> None:
        first, second = made(bench.make("a red fox", seed=5, num_images=2))
        for image, seed in ((first, 5), (second, 6)):
            assert pixels(image) == pixels(by_library(Flux2Klein, flux_folder, seed=seed, prompt="a red fox"))
        assert pixels(first) != pixels(second)

    @pytest.mark.parametrize("sources", [[TALL], [TALL, WIDE]], ids=["one", "two"])
    def test_an_edit_is_what_mflux_makes_of_the_files(
        self, bench: Bench, flux_folder: Path, tmp_path: Path, sources: list[bytes]
    ) -> None:
        (image,) = made(bench.make("make it red", sources=tuple(sources)))
        paths: list[Path | str] = []
        for place, data in enumerate(sources):
            paths.append(tmp_path / f"{place}.png")
            Path(paths[-1]).write_bytes(data)
        library = by_library(Flux2KleinEdit, flux_folder, seed=1, prompt="make it red", image_paths=paths)
        assert pixels(image) == pixels(library)

    def test_the_seed_and_the_prompt_matter(self, bench: Bench) -> None:
        """Or else the comparisons above would say nothing."""
        shown = {
            pixels(made(bench.make(prompt, seed=seed, num_steps=1))[0])
            for prompt, seed in (("a", 1), ("a", 2), ("the fox", 1))
        }
        assert len(shown) == 3

    def test_events_are_in_order_and_counted(self, bench: Bench) -> None:
        asked = bench.handler.prepare(ImageRequest("a cat", 1, sources=(TALL, WIDE), size=(32, 48))).usage
        # Two patches of each source, six of the picture.
        assert (asked.source_tokens, asked.image_tokens) == (4, 6)
        events = bench.make("a cat", num_images=2)
        assert [event for event in events if not isinstance(event, ImageMade)] == [
            *(ImageProgress(image, step, 2) for image in (0, 1) for step in (1, 2)),
            ImagesFinished(ImageUsage(asked.text_tokens, 0, 2)),
        ]
        assert [type(events[place]) for place in (2, 5)] == [ImageMade, ImageMade]
        # The prompt is read once.
        first, second = made(events)
        assert (first.image, first.usage) == (0, ImageUsage(asked.text_tokens, 0, 1))
        assert (second.image, second.usage) == (1, ImageUsage(0, 0, 1))

    def test_a_turn_is_a_step(self, bench: Bench) -> None:
        bench.submit(1, num_steps=3)
        for step in range(1, 4):
            assert bench.handler.turn()
            assert bench.events[1][-1] == ImageProgress(0, step, 3)
        assert not bench.handler.turn()
        assert isinstance(bench.events.pop(1)[-1], ImagesFinished)


class TestFiles:
    @pytest.mark.parametrize(("size", "file_format"), [((16, 32), "jpeg"), ((32, 16), "webp")])
    def test_size_and_format_are_those_asked_for(self, bench: Bench, size: tuple[int, int], file_format: Any) -> None:
        (image,) = made(bench.make(size=size, file_format=file_format, num_steps=1))
        opened = Image.open(io.BytesIO(image.data))
        assert (opened.format, opened.size, image.size) == (file_format.upper(), size, size)

    @pytest.mark.parametrize("file_format", ["jpeg", "webp"])
    def test_more_compression_is_a_smaller_file(self, bench: Bench, file_format: Any) -> None:
        asked = [
            bench.handler.prepare(ImageRequest("x", 1, file_format=file_format, compression=compression))
            for compression in (5, 95, None)
        ]
        small, large, largest = (len(_encode(picture(64, 64), one)) for one in asked)
        assert small < large < largest

    def test_nothing_in_it_tells_of_the_prompt(self, bench: Bench) -> None:
        (image,) = made(bench.make("a secret", num_steps=1))
        assert b"secret" not in image.data
        assert not decoded(image.data).info


class TestPreviews:
    def test_they_come_between_the_steps(self, bench: Bench) -> None:
        events = bench.make(num_steps=3, num_previews=3)
        assert [type(event) for event in events] == [
            *[ImageProgress, ImagePreview] * 2,
            ImageProgress,
            ImageMade,
            ImagesFinished,
        ]
        previews = [event for event in events if isinstance(event, ImagePreview)]
        assert [preview.number for preview in previews] == [0, 1]
        assert {decoded(preview.data).size for preview in previews} == {(16, 16)}
        # And change nothing about the picture.
        assert pixels(made(events)[0]) == pixels(made(bench.make(num_steps=3))[0])

    def test_a_preview_is_the_picture_that_so_few_steps_would_lead_to(self, bench: Bench) -> None:
        """After the first step the direction is kept to the end: that is what a single step does."""
        events = bench.make(num_steps=2, num_previews=1)
        (preview,) = [event for event in events if isinstance(event, ImagePreview)]
        (single,) = made(bench.make(num_steps=1))
        difference = max(abs(a - b) for a, b in zip(pixels(preview), pixels(single), strict=True))
        # bfloat16 is rounded once more.
        assert difference <= 8
        assert pixels(preview) != pixels(made(events)[0])


class TestCancelling:
    def test_between_two_steps_the_next_request_begins_at_once(self, bench: Bench) -> None:
        bench.submit(1, num_steps=50)
        bench.submit(2, num_steps=1)
        bench.handler.turn()
        bench.handler.cancel(1)
        bench.handler.turn()
        assert bench.events.pop(1) == [ImageProgress(0, 1, 50)]
        assert bench.events[2] == [ImageProgress(0, 1, 1)]
        run(bench.handler.turn)
        assert pixels(made(bench.events.pop(2))[0]) == pixels(made(bench.make(num_steps=1))[0])

    def test_in_the_line_and_unknown(self, bench: Bench) -> None:
        bench.submit(1, num_steps=1)
        bench.submit(2, num_steps=1)
        bench.handler.cancel(2)
        bench.handler.cancel(3)
        run(bench.handler.turn)
        assert isinstance(bench.events.pop(1)[-1], ImagesFinished)
        assert 2 not in bench.events

    def test_nothing_is_left_to_do(self, bench: Bench) -> None:
        bench.submit(1)
        bench.handler.turn()
        bench.handler.cancel(1)
        assert not bench.handler.turn()
        bench.events.clear()


def test_a_picture_that_fails_ends_its_own_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = bench.handler._pipeline._modules[0]
    monkeypatch.setitem(modules, "tokenizers", {})
    bench.submit(1, num_steps=1)
    assert not bench.handler.turn()
    (failed,) = bench.events.pop(1)
    assert isinstance(failed, Failed)
    assert failed.error == "InternalError"
    monkeypatch.undo()
    assert made(bench.make(num_steps=1))


class TestRequests:
    """What is decided before anything is computed."""

    @staticmethod
    def prepare(bench: Bench, prompt: str = "a cat", **fields: Any) -> Any:
        return bench.handler.prepare(ImageRequest(prompt, 1, **fields)).pictures[0]

    def test_the_models_own_choices(self, bench: Bench) -> None:
        chosen = self.prepare(bench)
        assert (chosen.width, chosen.height, chosen.num_steps, chosen.guidance) == (1024, 1024, 4, None)

    @pytest.mark.parametrize(("effort", "num_steps"), [("low", 2), ("medium", 4), ("high", 8)])
    def test_quality_is_a_number_of_steps(self, bench: Bench, effort: Any, num_steps: int) -> None:
        assert self.prepare(bench, effort=effort).num_steps == num_steps

    @pytest.mark.parametrize(
        ("size", "expected"), [((33, 47), (32, 32)), ((2048, 1024), (1440, 720)), ((16, 16), (16, 16))]
    )
    def test_an_edit_has_the_shape_of_its_first_source(
        self, bench: Bench, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        chosen = self.prepare(bench, sources=(encoded(Image.new("RGB", size)), TALL))
        assert (chosen.width, chosen.height) == expected

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"guidance": 3.5}, "guidance"),
            ({"negative_prompt": "no"}, "negative_prompt"),
            ({"sources": (TALL,), "mask": TALL}, "mask"),
        ],
    )
    def test_what_this_model_does_not_have(self, bench: Bench, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequest, match=r"flux2-klein-4b .*; leave it out\.") as caught:
            self.prepare(bench, **fields)
        assert caught.value.param == param

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"size": (2048, 2064)}, "size"),
            ({"num_steps": 201}, "steps"),
            ({"num_steps": 4, "effort": "high"}, "quality"),
            ({"sources": (TALL,) * 11}, "image"),
            ({"sources": (b"",)}, "image"),
            ({"sources": (TALL, b"GIF89a")}, "image[1]"),
            ({"sources": (encoded(Image.new("L", (15, 64))),)}, "image"),
            ({"sources": (encoded(Image.new("1", (20, 120_000))), TALL)}, "image[0]"),
        ],
    )
    def test_what_is_wrong(self, bench: Bench, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            self.prepare(bench, **fields)
        assert caught.value.param == param

    def test_a_prompt_that_would_be_cut_off(self, bench: Bench) -> None:
        fits, around = "fox " * 400, self.tokens(bench, "")
        assert self.tokens(bench, fits) > 400 > around
        with pytest.raises(ContextLengthExceeded, match="this model reads 512") as caught:
            self.prepare(bench, "fox " * 600)
        assert caught.value.param == "prompt"

    @staticmethod
    def tokens(bench: Bench, prompt: str) -> int:
        return bench.handler.prepare(ImageRequest(prompt, 1)).usage.text_tokens


class TestLoading:
    def test_a_folder_without_settings_is_opened(self, flux_folder: Path, tmp_path: Path) -> None:
        spec = ModelSpec(model_path=str(flux_folder), warmup=False)
        assert isinstance(open_handler(spec, tmp_path, lambda *_: None, lambda _: None), FluxHandler)

    def test_weights_are_rounded(self, flux_folder: Path) -> None:
        rounded = Bench(flux_folder, quantize=8, warmup=False)
        assert rounded.handler._pipeline._modules[0].bits == 8
        assert rounded.handler._pipeline._modules[-1].bits == 8
        rounded.handler.close()

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"lora_scales": [1.0]}, "as many --lora-scales as --lora-paths"),
            ({"lora_paths": ["nowhere.safetensors"]}, "cannot be loaded as a flux2-klein-4b: .*nowhere.safetensors"),
            ({"lora_paths": ["a"], "config_name": "fibo"}, "A fibo takes no LoRA"),
            ({"config_name": "flux-schnell"}, "cannot be loaded as a flux-schnell: "),
        ],
    )
    def test_settings_that_cannot_be_served_with(
        self, flux_folder: Path, settings: dict[str, object], sentence: str
    ) -> None:
        with pytest.raises(ModelLoadError, match=sentence):
            Bench(flux_folder, warmup=False, **settings)

    def test_without_the_library_the_command_is_named(
        self, flux_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mflux"]:
            monkeypatch.setitem(sys.modules, name, None)
        for name in ("handler", "pipeline", "requests"):
            monkeypatch.delitem(sys.modules, f"app.handler.flux.{name}")
        with pytest.raises(ModelLoadError, match=r"pip install 'mlx-openai-server\[images\]'"):
            open_handler(ModelSpec(model_path=str(flux_folder)), tmp_path, lambda *_: None, lambda _: None)
