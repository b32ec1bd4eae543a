"""Samples to the bytes of an audio file, as they come."""

import io
import struct
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from app.core.requests import AudioFormat

# A length that nobody knows yet, in a header that has to say one.
_UNKNOWN: Final = 0xFFFFFFFF
_WAV_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_BYTES_PER_SAMPLE: Final = 2


@dataclass(frozen=True, slots=True)
class Codec:
    """How PyAV makes a format: container, encoder, bits per second, options of the container."""

    container: str
    encoder: str
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)


_CODECS: Final[dict[AudioFormat, Codec]] = {
    "mp3": Codec("mp3", "libmp3lame", 96_000),
    # Pages of a tenth of a second: what is done goes out.
    "opus": Codec("ogg", "libopus", 48_000, {"page_duration": "100000"}),
    "aac": Codec("adts", "aac", 96_000),
    "flac": Codec("flac", "flac"),
}


class Encoder(Protocol):
    """Makes one file. Owned by the worker's main thread."""

    def feed(self, samples: NDArray[np.int16]) -> bytes:
        """The bytes that are certain with these samples; possibly none."""
        ...

    def finish(self) -> bytes:
        """The rest of the file."""
        ...


def new_encoder(audio_format: AudioFormat, sample_rate: int, *, is_streamed: bool) -> Encoder:
    """An encoder of mono audio; one that is not streamed gives all at the end, with its length in the header."""
    match audio_format:
        case "pcm":
            return RawEncoder()
        case "wav":
            return WavEncoder(sample_rate, is_streamed=is_streamed)
        case _:
            return CodecEncoder(_CODECS[audio_format], sample_rate, is_streamed=is_streamed)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """From -1 … 1; louder is cut off."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")


class RawEncoder:
    """16-bit little-endian samples and nothing else."""

    def feed(self, samples: NDArray[np.int16]) -> bytes:
        """See `Encoder.feed`."""
        return samples.tobytes()

    def finish(self) -> bytes:
        """See `Encoder.finish`."""
        return b""


class WavEncoder:
    """The same with a header. Of a stream it says the greatest length there is, as is the custom."""

    def __init__(self, sample_rate: int, *, is_streamed: bool) -> None:
        self._sample_rate = sample_rate
        self._is_streamed = is_streamed
        self._parts: list[bytes] = [self._header(_UNKNOWN)] if is_streamed else []

    def feed(self, samples: NDArray[np.int16]) -> bytes:
        """See `Encoder.feed`."""
        self._parts.append(samples.tobytes())
        return self._take() if self._is_streamed else b""

    def finish(self) -> bytes:
        """See `Encoder.finish`."""
        if self._is_streamed:
            return self._take()
        return self._header(sum(map(len, self._parts))) + self._take()

    def _take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken

    def _header(self, num_bytes: int) -> bytes:
        rate = self._sample_rate
        return _WAV_HEADER.pack(
            *(b"RIFF", min(num_bytes + _WAV_HEADER.size - 8, _UNKNOWN), b"WAVE"),
            *(b"fmt ", 16, 1, 1, rate, rate * _BYTES_PER_SAMPLE, _BYTES_PER_SAMPLE, 8 * _BYTES_PER_SAMPLE),
            *(b"data", num_bytes),
        )


class _Sink:
    """A file that PyAV cannot seek in: what is written can be sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep a copy."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self._parts = b"".join(self._parts), []
        return taken


class CodecEncoder:
    """A compressed format, by PyAV."""

    def __init__(self, codec: Codec, sample_rate: int, *, is_streamed: bool) -> None:
        self._sample_rate = sample_rate
        self._num_samples = 0
        self._sink = _Sink() if is_streamed else None
        self._file = io.BytesIO()
        options = {**codec.options, "flush_packets": "1"} if is_streamed else {}
        # PyAV's types know no file that is only written.
        target: Any = self._sink or self._file
        self._container = av.open(target, "w", format=codec.container, container_options=options)
        stream = self._container.add_stream(codec.encoder, rate=sample_rate, layout="mono")
        if not isinstance(stream, AudioStream):
            raise TypeError(f"{codec.encoder} makes no audio")
        self._stream = stream
        if codec.bit_rate is not None:
            self._stream.bit_rate = codec.bit_rate

    def feed(self, samples: NDArray[np.int16]) -> bytes:
        """See `Encoder.feed`."""
        if samples.size:
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = self._sample_rate
            frame.pts = self._num_samples
            self._num_samples += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._sink.take() if self._sink else b""

    def finish(self) -> bytes:
        """See `Encoder.finish`."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take() if self._sink else self._file.getvalue()
