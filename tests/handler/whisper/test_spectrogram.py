import mlx.core as mx
import numpy as np
import pytest
from mlx_whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

from app.handler.whisper.spectrogram import Spectrogram
from tests.fixtures.sound import Samples, whistle


def computed(samples: Samples, piece_frames: int, num_mels: int = 80) -> Spectrogram:
    spectrogram = Spectrogram(samples, num_mels, piece_frames)
    while spectrogram.compute():
        pass
    return spectrogram


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 32_077, 480_000])
@pytest.mark.parametrize("piece_frames", [30_000, 1000, 777])
def test_in_however_many_pieces_the_frames_are_mlx_whispers(num_samples: int, piece_frames: int) -> None:
    samples = whistle(31)[:num_samples]
    expected = log_mel_spectrogram(samples, padding=N_SAMPLES)
    spectrogram = computed(samples, piece_frames)
    assert spectrogram.num_frames == expected.shape[0] - N_FRAMES
    begin = spectrogram.num_frames // 2
    assert mx.array_equal(spectrogram.window(0, N_FRAMES), expected[:N_FRAMES])
    window = pad_or_trim(expected[begin : begin + 500], N_FRAMES, axis=-2)
    assert mx.array_equal(spectrogram.window(begin, 500), window)


def test_the_loudest_moment_of_all_decides_what_is_silence() -> None:
    samples = np.concatenate([1e-4 * whistle(10), whistle(10)])
    expected = log_mel_spectrogram(samples, n_mels=128, padding=N_SAMPLES)
    spectrogram = computed(samples, 600, num_mels=128)
    assert mx.array_equal(spectrogram.window(0, 900), pad_or_trim(expected[:900], N_FRAMES, axis=-2))
    # Alone, the quiet part would not be cut off there.
    alone = log_mel_spectrogram(samples[: 10 * 16_000], n_mels=128, padding=N_SAMPLES)
    assert not mx.allclose(alone[:900], expected[:900])


def test_a_piece_is_bounded() -> None:
    spectrogram = Spectrogram(whistle(20), 80, 1000)
    assert [spectrogram.compute() for _ in range(5)] == [True, True, True, True, False]
