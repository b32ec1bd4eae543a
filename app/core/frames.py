"""The frames between the server and a worker: length-prefixed msgpack over a socketpair."""

from typing import Generic, Literal, TypeVar

import msgspec

from app.core.conversation import MediaKind
from app.core.events import Event
from app.core.requests import Kind, Request

MAX_FRAME_BYTES = 256 * 1024 * 1024
_PREFIX_BYTES = 4
T = TypeVar("T")


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Server to worker, first: `spec` is a ModelSpec as JSON.

    `memory_bytes` is what the model may plan with; None where it has the machine to itself.
    """

    spec: str
    cache_dir: str
    memory_bytes: int | None = None


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit"):
    """Server to worker: run this; `id` is unique within the worker's life."""

    id: int
    request: Request


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Server to worker: nobody wants this request any more; unknown ids are ignored."""

    id: int


class Inspect(msgspec.Struct, frozen=True, array_like=True, tag="inspect"):
    """Server to worker: say how the caches are, and empty them afterwards if `clears`. Answered between two turns."""

    id: int
    clears: bool = False


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    """Server to worker: say how far the threads have come. Answered at once, by the reader."""


class Close(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """Server to worker, last: save what is to outlive the process, and exit."""


ToWorker = Load | Submit | Cancel | Inspect | Ping | Close


class ModelInfo(msgspec.Struct, frozen=True):
    """What a loaded model turned out to be; lengths in tokens. `senses` are the media that its chats may have."""

    kind: Kind
    context_length: int
    architecture: str
    load_s: float
    device: str
    senses: tuple[MediaKind, ...] = ()


class CacheStats(msgspec.Struct, frozen=True):
    """The prefix cache of a model: counts since its worker started, and what it holds now; and its memory.

    A file may be written and not be there any more; loads are files read. `kv_bytes` are those of running requests;
    `active_bytes` is all that MLX holds for the model, `peak_bytes` the most it has held. `num_media` are kept as
    what the model made of them, each looked up once for every prompt that it is in.
    """

    lookups: int = 0
    hits: int = 0
    looked_up_tokens: int = 0
    hit_tokens: int = 0
    evictions: int = 0
    expired: int = 0
    num_sequences: int = 0
    num_bytes: int = 0
    max_bytes: int = 0
    disk_files: int = 0
    disk_bytes: int = 0
    disk_max_bytes: int = 0
    disk_spills: int = 0
    disk_loads: int = 0
    media_lookups: int = 0
    media_hits: int = 0
    num_media: int = 0
    media_bytes: int = 0
    media_max_bytes: int = 0
    weights_bytes: int = 0
    kv_bytes: int = 0
    kv_max_bytes: int = 0
    active_bytes: int = 0
    peak_bytes: int = 0


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """Worker to server: a sentence about the loading."""

    sentence: str


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Worker to server: the model takes requests now; `folder` is where its files are.

    `gpu_bytes` is what it takes of an NVIDIA GPU's memory, 0 elsewhere.
    """

    info: ModelInfo
    folder: str
    gpu_bytes: int = 0


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="load-failed"):
    """Worker to server: loading this model again would fail again; the worker exits."""

    message: str


class Turn(msgspec.Struct, frozen=True, array_like=True, tag="turn"):
    """Worker to server: everything one turn produced, (request id, event) in order."""

    events: list[tuple[int, Event]]


class LogLine(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """Worker to server: a line for the server's log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    message: str


class Inspected(msgspec.Struct, frozen=True, array_like=True, tag="inspected"):
    """Worker to server: the answer to the `Inspect` of this id, from before anything was emptied."""

    id: int
    caches: CacheStats


class Pulse(msgspec.Struct, frozen=True, array_like=True, tag="pulse"):
    """Worker to server: the answer to `Ping`. How many pieces of work the main and the prepare thread have begun.

    None for a thread that waits for something to do. `gpu_bytes` as in `Ready`.
    """

    turn: int | None
    preparation: int | None
    gpu_bytes: int = 0


ToServer = Turn | Progress | Ready | LoadFailed | LogLine | Inspected | Pulse


class FrameError(Exception):
    """The bytes on the socket are not frames; the connection cannot go on."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: ToWorker | ToServer) -> bytes:
    """One frame: a little-endian uint32 length, then msgpack.

    Errors: FrameError when it is larger than a reader accepts.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_PREFIX_BYTES, "little") + body


class FrameReader(Generic[T]):
    """Cuts a byte stream into messages, whatever the pieces it arrives in. Owned by one thread."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes.

        Errors: FrameError on a length over the limit or a body that is no known message.
        """
        self._buffer += data
        messages: list[T] = []
        start = 0
        with memoryview(self._buffer) as view:
            while (body := start + _PREFIX_BYTES) <= len(view):
                end = body + int.from_bytes(view[start:body], "little")
                if end - body > MAX_FRAME_BYTES:
                    raise FrameError(f"a frame announces {end - body} bytes, over the limit of {MAX_FRAME_BYTES}")
                if end > len(view):
                    break
                messages.append(self._decode(view[body:end]))
                start = end
        del self._buffer[:start]
        return messages

    def _decode(self, body: memoryview) -> T:
        try:
            return self._decoder.decode(body)
        # The last two are msgspec's, too, though not of its own family.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError(f"a frame holds no known message: {error}") from error


def reader_of_worker() -> FrameReader[ToWorker]:
    """Reads what the server sends."""
    return FrameReader(msgspec.msgpack.Decoder(ToWorker))


def reader_of_server() -> FrameReader[ToServer]:
    """Reads what a worker sends."""
    return FrameReader(msgspec.msgpack.Decoder(ToServer))
