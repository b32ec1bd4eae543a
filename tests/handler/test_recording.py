import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidRequest
from app.handler.recording import read_recording
from tests.fixtures import sound
from tests.fixtures.sound import RATE, Samples

SECONDS = 3


@pytest.fixture(scope="module")
def samples() -> Samples:
    return sound.whistle(SECONDS)


def read(data: bytes, max_s: float = 60) -> Samples:
    return read_recording(data, RATE, max_s)


def refusal(data: bytes, max_s: float = 60) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(data, max_s)
    assert caught.value.param == "file"
    return caught.value.message


def picture(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, form)
    return out.getvalue()


def test_samples_come_through_as_they_are(samples: Samples) -> None:
    np.testing.assert_array_equal(read(sound.wav(samples)), samples)


def test_a_speakers_file_is_read() -> None:
    assert len(read(sound.speaker())) == 159_414


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("mp3", "libmp3lame"), ("ipod", "aac"), ("mp4", "aac"), ("ogg", "libopus"), ("webm", "libopus")),
        *(("flac", "flac"), ("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("adts", "aac"), ("mpegts", "aac")),
        *(("caf", "pcm_s16le"), ("au", "pcm_s16be"), ("w64", "pcm_s16le"), ("avi", "libmp3lame")),
    ],
)
def test_what_people_record_is_read(samples: Samples, container: str, codec: str) -> None:
    decoded = read(sound.encode(samples, container, codec))
    assert abs(len(decoded) / RATE - SECONDS) < 0.1
    # Louder in the same places: codecs shift it by some milliseconds.
    blocks = [np.abs(part[: SECONDS * RATE // 10 * 10]).reshape(10, -1).mean(1) for part in (_fit(decoded), samples)]
    assert np.corrcoef(*blocks)[0, 1] > 0.95


def _fit(decoded: Samples) -> Samples:
    return np.resize(np.pad(decoded, (0, RATE)), SECONDS * RATE)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_of_a_video_the_sound_is_read(samples: Samples, container: str) -> None:
    decoded = read(sound.encode(samples, container, "aac", has_video=True))
    assert abs(len(decoded) / RATE - SECONDS) < 0.1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello " * 500, "no audio or video file"),
        (bytes(20_000), "no audio or video file"),
        (picture("PNG"), "no audio or video file"),
        (picture("GIF"), "no audio or video file"),
        (picture("JPEG"), "no audio or video file"),
        (sound.mute_video(), "no audio track"),
    ],
    ids=["empty", "text", "zeros", "PNG", "GIF", "JPEG", "mute"],
)
def test_what_has_no_sound_is_refused(data: bytes, says: str) -> None:
    assert says in refusal(data)


@pytest.mark.parametrize(
    ("container", "codec"), [("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("flac", "flac")]
)
def test_a_file_that_is_cut_off_is_refused(samples: Samples, container: str, codec: str) -> None:
    data = sound.encode(samples, container, codec)
    assert "cut off" in refusal(data[: len(data) // 2])
    # Where the end is missing there are no tables either.
    assert "damaged" in refusal(sound.encode(samples, "mp4", "aac")[:10_000])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF024])
def test_who_writes_while_recording_knows_no_size(samples: Samples, size: int) -> None:
    data = bytearray(sound.wav(samples))
    data[4:8] = size.to_bytes(4, "little")
    data[40:44] = size.to_bytes(4, "little")
    assert len(read(bytes(data))) >= len(samples)


def test_broken_packets_are_left_out(samples: Samples) -> None:
    data = bytearray(sound.encode(samples, "mp3", "libmp3lame"))
    data[20_000:22_000] = bytes(2000)
    assert SECONDS - 0.5 < len(read(bytes(data))) / RATE < SECONDS


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
    ],
)
def test_a_file_opens_no_other_file(samples: Samples, tmp_path_factory: pytest.TempPathFactory, playlist: str) -> None:
    path = tmp_path_factory.mktemp("private") / "secret.wav"
    path.write_bytes(sound.wav(samples))
    assert "no audio or video file" in refusal(playlist.format(path=path).encode())


def test_a_long_recording_in_a_small_file_is_refused() -> None:
    data = sound.silence_of_hours(0.1)
    assert len(data) < 100_000
    assert "longer than the 60 s" in refusal(data)
    assert len(read(data, max_s=361)) / RATE == pytest.approx(360, abs=1)


def test_loud_samples_are_clipped_and_no_numbers_refused() -> None:
    assert np.abs(read(sound.wav(np.full(RATE, 1e30, np.float32)))).max() == 1
    assert "no numbers" in refusal(sound.wav(np.full(RATE, np.nan, np.float32)))


def test_any_damage_is_a_recording_or_a_refusal(samples: Samples) -> None:
    draw = np.random.default_rng(0)
    forms = [("ipod", "aac"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"), ("wav", "pcm_s16le")]
    for container, codec in forms:
        data = sound.encode(samples, container, codec)
        for _ in range(12):
            damaged = bytearray(data)
            for place in draw.integers(0, min(len(data), 2000), 10):
                damaged[place] = draw.integers(256)
            with contextlib.suppress(InvalidRequest):
                assert read(bytes(damaged)).ndim == 1
