"""The log-mel spectrogram of a recording, made in bounded pieces; the numbers are those of mlx_whisper's."""

import mlx.core as mx
import numpy as np
from mlx_whisper.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_SAMPLES, hanning, mel_filters, pad_or_trim, stft
from numpy.typing import NDArray

# Five minutes: some 100 MB on the way.
_PIECE_FRAMES = 30_000
# Frames that see nothing of what `stft` puts around the samples it is given.
_MARGIN_FRAMES = 2


class Spectrogram:
    """Frames of 10 ms, with half a minute of silence at the end. Owned by the worker's main thread."""

    def __init__(self, samples: NDArray[np.float32], num_mels: int, piece_frames: int = _PIECE_FRAMES) -> None:
        self.num_frames = len(samples) // HOP_LENGTH
        self._samples = samples
        self._filters = mel_filters(num_mels)
        self._piece_frames = piece_frames
        self._pieces: list[mx.array] = []
        self._floor = mx.array(-mx.inf)
        self._num_done = 0
        self._mel = mx.zeros((0, num_mels))

    def compute(self) -> bool:
        """Do one piece; whether there is more. The frames can be read when there is none."""
        begin, total = self._num_done, self.num_frames + N_FRAMES
        end = min(begin + self._piece_frames, total)
        self._pieces.append(self._log_mel(begin, end))
        # What is far below the loudest moment of the whole recording counts as silence.
        self._floor = mx.maximum(self._floor, self._pieces[-1].max() - 8.0)
        mx.eval(self._pieces[-1], self._floor)
        self._num_done = end
        if end < total:
            return True
        self._mel = mx.concatenate(self._pieces)
        self._pieces.clear()
        mx.eval(self._mel)
        return False

    def window(self, begin: int, num_frames: int) -> mx.array:
        """A model's input of 30 seconds: so many frames, and zeros."""
        log_mel = mx.maximum(self._mel[begin : begin + num_frames], self._floor)
        return pad_or_trim((log_mel + 4.0) / 4.0, N_FRAMES, axis=-2)

    def _log_mel(self, begin: int, end: int) -> mx.array:
        first = max(0, begin - _MARGIN_FRAMES)
        samples = self._between(HOP_LENGTH * first, HOP_LENGTH * (end + _MARGIN_FRAMES))
        waves = stft(samples, hanning(N_FFT), nperseg=N_FFT, noverlap=HOP_LENGTH)[begin - first : end - first]
        return mx.maximum(waves.abs().square() @ self._filters.T, 1e-10).log10()

    def _between(self, begin: int, end: int) -> mx.array:
        """Samples of the recording and the silence after it."""
        end = min(end, len(self._samples) + N_SAMPLES)
        there = self._samples[begin:end]
        return mx.pad(mx.array(there), (0, end - begin - len(there)))
