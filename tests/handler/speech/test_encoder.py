import io
import wave
from typing import get_args

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.core.requests import AudioFormat
from app.handler.speech.encoder import new_encoder, to_int16

RATE = 24_000
# A second of a tone in pieces of all lengths, one of them empty.
TONE = to_int16(np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE).astype(np.float32) * np.float32(0.5))
PIECES = np.split(TONE, [1, 700, 700, 9_000, 23_999])
COMPRESSED: tuple[AudioFormat, ...] = ("mp3", "opus", "aac", "flac")


def encoded(audio_format: AudioFormat, *, is_streamed: bool) -> list[bytes]:
    encoder = new_encoder(audio_format, RATE, is_streamed=is_streamed)
    return [*map(encoder.feed, PIECES), encoder.finish()]


def decoded(audio: bytes) -> NDArray[np.float32]:
    """The samples at the file's own rate, which for Opus is 48 kHz, thinned out to ours."""
    parts: list[NDArray[np.float32]] = []
    with av.open(io.BytesIO(audio), "r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("audio_format", COMPRESSED)
def test_the_tone_is_in_every_format(audio_format: AudioFormat, is_streamed: bool) -> None:
    pieces = encoded(audio_format, is_streamed=is_streamed)
    assert (sum(map(bool, pieces)) > 1) == is_streamed
    heard = decoded(b"".join(pieces))
    # Codecs add a little silence at the ends.
    assert RATE <= heard.size + 1 <= RATE * 1.13
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.argmax(spectrum) * RATE / heard.size == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_flac_keeps_every_sample() -> None:
    for is_streamed in (False, True):
        heard = decoded(b"".join(encoded("flac", is_streamed=is_streamed)))
        assert np.array_equal(np.round(heard * 32768), TONE)


def test_a_whole_wav_says_its_length() -> None:
    *nothing, whole = encoded("wav", is_streamed=False)
    assert not any(nothing)
    with wave.open(io.BytesIO(whole)) as file:
        assert file.getparams()[:4] == (1, 2, RATE, RATE)
        assert file.readframes(RATE) == TONE.tobytes()


def test_a_streamed_wav_has_the_same_samples() -> None:
    pieces = encoded("wav", is_streamed=True)
    assert [len(piece) for piece in pieces[:2]] == [44 + 2, 2 * 699]
    with wave.open(io.BytesIO(b"".join(pieces))) as file:
        assert file.getnframes() > RATE
        assert file.readframes(2**30) == TONE.tobytes()


def test_pcm_is_the_samples() -> None:
    assert b"".join(encoded("pcm", is_streamed=True)) == TONE.tobytes()


def test_too_loud_is_cut_off() -> None:
    assert to_int16(np.array([-7, -1, 0, 0.5, 1, 7], np.float32)).tolist() == [-32767, -32767, 0, 16384, 32767, 32767]


def test_every_format_is_tried_here() -> None:
    assert {*COMPRESSED, "wav", "pcm"} == set(get_args(AudioFormat))
