"""Recordings that clients send: the sound in a file of any kind, as samples."""

import io
from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from numpy.typing import NDArray

from app.errors import InvalidRequest

# What people record into and edit with. Playlists and the like are kept out: they name files that FFmpeg would open.
_FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "eac3", "flac", "flv", "matroska"),
    *("mov", "mp3", "mpeg", "mpegts", "ogg", "w64", "wav", "wv"),
)
OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "none"}
# Their headers say how long a track is, others estimate it.
_EXACT_FORMATS = frozenset({"aiff", "au", "flac", "mov,mp4,m4a,3gp,3g2,mj2"})
_TOLERATED_S = 0.5
# Who writes a WAV file before knowing its end leaves no size, or the largest.
_LARGEST_RIFF_BYTES = 2**31 - 2**20
_TOLERATED_BYTES = 4096
_SAMPLE_BYTES = 4


def read_recording(data: bytes, sample_rate: int, max_s: float, place: str = "file") -> NDArray[np.float32]:
    """The best audio track of a file, all channels mixed: samples from -1 to 1.

    Decoded in pieces, so that no more than `max_s` seconds are ever in memory. `place` is what the client calls it.
    Errors: InvalidRequest.
    """
    samples = bytearray()
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="ignore", options=OPTIONS) as container:
            stream = cast("AudioStream | None", container.streams.best("audio"))
            if stream is None:
                raise _refused(place, "has no audio track; send a recording.")
            for piece in _resampled(_frames(container, stream), sample_rate):
                samples += piece
                if len(samples) > max_s * sample_rate * _SAMPLE_BYTES:
                    raise _refused(place, f"is longer than the {max_s:g} s that are taken at once; split it.")
            is_cut_off = _is_cut_off(data, container, stream, len(samples) / _SAMPLE_BYTES / sample_rate)
    except FFmpegError as error:
        raise _refused(place, _advice(data)) from error
    if is_cut_off:
        raise _refused(place, "is cut off: its header announces more than there is; send it whole.")
    decoded = np.frombuffer(samples, np.float32)
    if not np.isfinite(decoded).all():
        raise _refused(place, "holds samples that are no numbers.")
    # Files of floating-point samples may have any.
    return np.clip(decoded, -1, 1, out=decoded)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """What can be decoded; broken packets are left out, as any player does it."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else None
        except InvalidDataError:
            continue
        if frames is None:
            return
        yield from frames


def _resampled(frames: Iterator[AudioFrame], sample_rate: int) -> Iterator[bytes]:
    """The frames as mono float32; their own form may change on the way."""
    resampler = None
    form: tuple[object, ...] = ()
    for frame in frames:
        if (new := (frame.format.name, frame.layout.name, frame.sample_rate)) != form:
            yield from _flushed(resampler)
            form, resampler = new, av.AudioResampler("flt", "mono", sample_rate)
        # The times in a file may jump; the samples follow on each other all the same.
        frame.pts = None
        if resampler is not None:
            yield from (piece.to_ndarray().tobytes() for piece in resampler.resample(frame))
    yield from _flushed(resampler)


def _flushed(resampler: av.AudioResampler | None) -> Iterator[bytes]:
    if resampler is not None:
        yield from (piece.to_ndarray().tobytes() for piece in resampler.resample(None))


def _is_cut_off(data: bytes, container: InputContainer, stream: AudioStream, decoded_s: float) -> bool:
    """Whether a header announces more than the file holds."""
    if data.startswith(b"RIFF"):
        num_bytes = int.from_bytes(data[4:8], "little")
        return num_bytes < _LARGEST_RIFF_BYTES and num_bytes > len(data) + _TOLERATED_BYTES
    if container.format.name not in _EXACT_FORMATS or stream.duration is None or stream.time_base is None:
        return False
    return float(stream.duration * stream.time_base) > decoded_s + _TOLERATED_S


def _advice(data: bytes) -> str:
    if not data:
        return "is empty; send a recording."
    return "is no audio or video file that can be read, or it is damaged; send wav, mp3, m4a, flac, ogg or webm."


def _refused(place: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' {why}", param=place)
