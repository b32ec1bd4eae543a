"""Films that clients send: some of the frames of a file of any kind, evenly spread. Runs in the prepare thread."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from app.errors import InvalidRequest
from app.handler.recording import OPTIONS

# Of all its frames together: some seconds of decoding. A frame counts as no fewer than the least.
_MOST_DECODED_PIXELS = 2**32
_LEAST_PIXELS = 2**14
# Of the frames that are taken, in memory.
_MOST_KEPT_PIXELS = 2**26
# The headers of these say how many frames there are.
_COUNTING_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "avi"})
# Whoever writes a film may leave out the last frames.
_TOLERATED_FRAMES = 2


@dataclass(frozen=True, slots=True)
class FilmSampling:
    """How many frames of a film are taken: `fps` of each second, and what that may lead to."""

    fps: float
    min_frames: int
    max_frames: int

    def places(self, num_frames: int, source_fps: float) -> list[int]:
        """Which of a film's frames: an even number of them, if it has two; as mlx_vlm's `load_video` chooses them."""
        most = min(self.max_frames, num_frames) // 2 * 2
        least = math.ceil(self.min_frames / 2) * 2
        wanted = int(min(max(num_frames / source_fps * self.fps, least), most) // 2 * 2)
        return np.linspace(0, num_frames - 1, max(wanted, 1)).round().astype(int).tolist()


@dataclass(frozen=True, slots=True)
class Film:
    """The `frames` that were taken, uint8 of shape (frames, 3, height, width), upright.

    `places` are theirs among the `num_frames` of the film, of which `fps` are shown in a second.
    """

    frames: NDArray[np.uint8]
    places: list[int]
    num_frames: int
    fps: float


def read_film(data: bytes, sampling: FilmSampling, max_pixels: int, place: str) -> Film:
    """Frames of a file's best video track, which have `max_pixels` at most; `place` is what the client calls it.

    Errors: InvalidRequest, before anything is decoded where the packets say enough.
    """
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="ignore", options=OPTIONS) as container:
            return _read(container, sampling, max_pixels, place)
    except FFmpegError as error:
        why = "is no film that can be read, or it is damaged; send MP4, MOV, WebM, Matroska, AVI, Ogg or MPEG"
        raise _refused(place, why if data else "is empty; send the bytes of a film") from error


def _read(container: InputContainer, sampling: FilmSampling, max_pixels: int, place: str) -> Film:
    # The picture of a record's cover is a video track, too.
    films = [
        one for one in container.streams.video if not one.disposition & Disposition.attached_pic and _is_known(one)
    ]
    if not films:
        raise _refused(place, "has no video track; send a film")
    stream = max(films, key=lambda one: one.width * one.height)
    if stream.width * stream.height > max_pixels:
        size = f"{stream.width}x{stream.height}"
        raise _refused(place, f"has {size} pixels, and {max_pixels} are the limit (--max-input-pixels); scale it down")
    packets = _packets(container, stream, place)
    # Sizes may change on the way; a codec has some rows and columns more than it shows.
    stream.codec_context.options = {"max_pixels": str(2 * max_pixels + 2**20)}
    stream.thread_type = "AUTO"
    fps = float(stream.average_rate or stream.guessed_rate or 1)
    shown = sorted(time for packet in packets if (time := _time(packet)) is not None)
    if not shown:
        raise _refused(place, "has no frames; send the whole film")
    places = sampling.places(len(shown), fps)
    frames = _taken(packets, [shown[one] for one in places], place)
    # Where a film is broken at its end, its last frames are missing.
    return Film(np.stack(frames), places[: len(frames)], len(shown), fps)


def _is_known(stream: VideoStream) -> bool:
    """Whether there is a decoder."""
    return cast("CodecContext | None", stream.codec_context) is not None


def _packets(container: InputContainer, stream: VideoStream, place: str) -> list[Packet]:
    """All of a film's, none of them decoded."""
    most = _MOST_DECODED_PIXELS // max(stream.width * stream.height, _LEAST_PIXELS)
    packets: list[Packet] = []
    for packet in container.demux(stream):
        if packet.size:
            packets.append(packet)
        if len(packets) > most:
            size = f"{stream.width}x{stream.height}"
            raise _refused(place, f"has more than {most} frames of {size}; shorten it, or scale it down")
    if container.format.name in _COUNTING_FORMATS and stream.frames > len(packets) + _TOLERATED_FRAMES:
        raise _refused(place, "is cut off: its header announces more than there is; send it whole")
    return packets


def _taken(packets: list[Packet], times: list[int], place: str) -> list[NDArray[np.uint8]]:
    """The frames that are shown at `times`, which ascend, or the next that can be decoded; all of one size."""
    taken: list[NDArray[np.uint8]] = []
    size: tuple[int, int] | None = None
    num_pixels = 0
    for frame in _decoded(packets):
        num_pixels += frame.width * frame.height
        # Its header told of smaller ones.
        if num_pixels > _MOST_DECODED_PIXELS:
            raise _refused(place, "is too long for its size; shorten it, or scale it down")
        size = size or _kept_size(frame, len(times))
        if (time := frame.pts if frame.pts is not None else frame.dts) is None or time < times[len(taken)]:
            continue
        image = cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24", width=size[0], height=size[1]))
        # Telephones film lying down, and say so.
        channels = np.rot90(image, round(frame.rotation / 90)).transpose(2, 0, 1)
        while len(taken) < len(times) and time >= times[len(taken)]:
            taken.append(channels)
        if len(taken) == len(times):
            break
    if len(taken) * 2 < len(times):
        raise _refused(place, "is damaged: most of it cannot be decoded; send it whole")
    return taken


def _decoded(packets: list[Packet]) -> Iterator[VideoFrame]:
    """In the order in which they are shown; broken packets are left out, as any player does it."""
    for packet in packets:
        try:
            frames = packet.decode()
        except InvalidDataError:
            continue
        yield from (frame for frame in frames if isinstance(frame, VideoFrame))
    # What is still in the decoder.
    yield from packets[-1].stream.codec_context.decode(None)


def _kept_size(frame: VideoFrame, num_frames: int) -> tuple[int, int]:
    """Width and height, scaled down where there would be too much in memory."""
    scale = min(1.0, math.sqrt(_MOST_KEPT_PIXELS / num_frames / (frame.width * frame.height)))
    return max(1, int(frame.width * scale)), max(1, int(frame.height * scale))


def _time(packet: Packet) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _refused(place: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' {why}.", param=place)
