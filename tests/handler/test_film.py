import contextlib
import io
from pathlib import Path

import av
import numpy as np
import pytest
from mlx_vlm.utils import load_video
from PIL import Image

from app.errors import InvalidRequest
from app.handler.film import Film, FilmSampling, read_film
from tests.fixtures import films, sound
from tests.fixtures.pictures import encoded, picture

FRAMES = films.frames(12)
EVERY = FilmSampling(fps=100, min_frames=1, max_frames=64)
MANY_PIXELS = 10**8


def read(data: bytes, sampling: FilmSampling = EVERY, max_pixels: int = MANY_PIXELS) -> Film:
    return read_film(data, sampling, max_pixels, "the film")


def refusal(data: bytes, max_pixels: int = MANY_PIXELS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(data, max_pixels=max_pixels)
    assert caught.value.param == "the film"
    return caught.value.message


def shows(film: Film, images: list[Image.Image]) -> bool:
    """Whether each of its frames is the image in its place, and nearer to it than to the one after it."""
    arrays = [np.asarray(image).transpose(2, 0, 1) for image in images]
    for number, (place, frame) in enumerate(zip(film.places, film.frames, strict=True)):
        near = films.distance(frame, arrays[place])
        others = [films.distance(frame, other) for other in (*arrays[:place], *arrays[place + 1 :])]
        if near > 12 or near >= min(others):
            raise AssertionError((number, place, near, others))
    return True


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("mp4", "libx264"), ("mp4", "mpeg4"), ("mov", "libx264"), ("matroska", "libx264"), ("webm", "libvpx")),
        *(("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mpegts", "libx264"), ("mpeg", "mpeg2video")),
    ],
)
def test_what_people_film_is_read(container: str, codec: str) -> None:
    rate = 25 if codec == "mpeg2video" else 4
    film = read(films.film(FRAMES, container, codec, rate))
    assert (film.num_frames, film.fps, film.frames.dtype) == (12, rate, np.uint8)
    assert film.places == list(range(12))
    assert shows(film, FRAMES)


@pytest.mark.parametrize(
    ("count", "rate", "sampling"),
    [
        (12, 4, FilmSampling(2.0, 4, 64)),
        (40, 10, FilmSampling(2.0, 4, 64)),
        (40, 10, FilmSampling(1.0, 4, 64)),
        (40, 10, FilmSampling(5.0, 4, 7)),
        (5, 25, FilmSampling(2.0, 4, 64)),
        (3, 1, FilmSampling(1.0, 4, 64)),
    ],
)
def test_the_frames_are_those_that_the_library_takes(
    count: int, rate: int, sampling: FilmSampling, tmp_path: Path
) -> None:
    images = films.frames(count)
    path = tmp_path / "film.mp4"
    path.write_bytes(films.film(images, codec="libx264", rate=rate))
    asked = {"fps": sampling.fps, "min_frames": sampling.min_frames, "max_frames": sampling.max_frames}
    frames, metadata = load_video(str(path), None, None, **asked)
    film = read(path.read_bytes(), sampling)
    assert film.places == metadata.frames_indices
    assert (film.num_frames, film.fps) == (metadata.total_num_frames, metadata.fps)
    assert films.distance(film.frames, frames) < 3
    assert shows(film, images)


def test_a_film_of_one_frame() -> None:
    assert read(films.film(FRAMES[:1]), FilmSampling(2.0, 4, 64)).places == [0]


@pytest.mark.parametrize("turned", [90, -90, 180])
def test_a_film_is_shown_upright(turned: int) -> None:
    shown = FRAMES[0].rotate(turned, expand=True)
    film = read(films.film(FRAMES[:1], turned=turned))
    assert film.frames.shape[2:] == (shown.height, shown.width)
    assert films.distance(film.frames[0], np.asarray(shown).transpose(2, 0, 1)) < 12


def test_frames_take_no_more_memory_than_there_is_for_them() -> None:
    """Many large ones are scaled down."""
    film = read(films.long_film(2048, 40))
    assert film.frames.shape[0] == 40
    assert film.frames.nbytes <= 3 * 2**26
    assert film.frames.shape[2] > 1000


def test_frames_that_grow_on_the_way() -> None:
    """All are as large as the first, and what may not be decoded as a whole film may not come in the middle of one."""
    small = films.film(films.frames(40, 64, 64), "mpegts", "libx264", 10)
    grown = small + films.film(films.frames(8, 1536, 1536), "mpegts", "libx264", 10)
    film = read(grown)
    assert (film.num_frames, film.frames.shape) == (48, (48, 3, 64, 64))
    assert "no film that can be read" in refusal(grown, max_pixels=10**5)
    assert read(small, max_pixels=10**5).num_frames == 40


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "is empty"),
            (b"\0\0\0\x18ftypmp42 and no more", "no film"),
            (encoded(picture(64, 64)), "no film"),
            (sound.wav(sound.whistle(0.5)), "no video track"),
            (sound.encode(sound.whistle(0.5), "mp4", "aac"), "no video track"),
            (films.song_with_cover(), "no video track"),
            (films.film(FRAMES)[:-400], "no film"),
            (films.film(FRAMES, "avi")[:-1000], "is cut off"),
        ],
    )
    def test_what_is_no_film(self, data: bytes, said: str) -> None:
        assert said in refusal(data)

    def test_frames_too_large(self) -> None:
        message = refusal(films.film(FRAMES), max_pixels=96 * 64 - 1)
        assert "96x64" in message
        assert "--max-input-pixels" in message
        assert read(films.film(FRAMES), max_pixels=96 * 64).num_frames == 12

    def test_frames_too_many(self) -> None:
        """Some 4 gigapixels."""
        data = films.long_film(4096, 257)
        assert "more than 256 frames of 4096x4096" in refusal(data)

    def test_a_list_of_files_opens_none(self) -> None:
        assert "no film" in refusal(b"ffconcat version 1.0\nfile /etc/passwd\n")


def test_damage_is_refused_or_left_out() -> None:
    draw = np.random.default_rng(3)
    num_read = 0
    for container, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")):
        data = films.film(FRAMES, container, codec)
        for _ in range(40):
            damaged = bytearray(data)
            for place in draw.integers(len(data), size=20):
                damaged[place] = draw.integers(256)
            with contextlib.suppress(InvalidRequest):
                film = read(bytes(damaged))
                assert len(film.places) == len(film.frames) > 0
                num_read += 1
    assert num_read > 0


def test_a_frame_that_is_broken_is_left_out() -> None:
    data = films.film(FRAMES, "webm", "libvpx")
    with av.open(io.BytesIO(data), "r") as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    assert data.count(packets[7]) == 1
    film = read(data.replace(packets[7], b"\xff" * len(packets[7])))
    assert (film.num_frames, film.places) == (12, list(range(12)))
    # What is shown in its place is the next one.
    assert np.array_equal(film.frames[7], film.frames[8])
    assert not np.array_equal(film.frames[6], film.frames[7])
