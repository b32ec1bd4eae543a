"""An audio file as the body of a reply, sent as it is made."""

from fastapi import Response
from starlette.types import Receive, Scope, Send

from app.api.replies import Work, while_connected
from app.core.events import AudioDelta, Spoken
from app.core.requests import AudioFormat

CONTENT_TYPES: dict[AudioFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class AudioReply(Response):
    """Runs the call and sends its audio; stops it when the client leaves.

    An error after the first byte breaks the connection off, so that nobody takes the piece for the whole.
    """

    def __init__(self, call: Work, audio_format: AudioFormat) -> None:
        super().__init__()
        self._call = call
        self._content_type = CONTENT_TYPES[audio_format]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._call
        has_begun = False
        async with while_connected(receive), call.run() as stream:
            async for batch in stream:
                call.record.note(batch)
                audio = b"".join(event.audio for event in batch if isinstance(event, AudioDelta))
                is_last = isinstance(batch[-1], Spoken)
                if not has_begun:
                    has_begun = True
                    await send(self._start(len(audio) if is_last else None))
                if audio or is_last:
                    await send({"type": "http.response.body", "body": audio, "more_body": not is_last})

    def _start(self, num_bytes: int | None) -> dict[str, object]:
        headers = [(b"content-type", self._content_type.encode("ascii")), (b"x-accel-buffering", b"no")]
        if num_bytes is not None:
            headers.append((b"content-length", str(num_bytes).encode("ascii")))
        return {"type": "http.response.start", "status": 200, "headers": headers}
