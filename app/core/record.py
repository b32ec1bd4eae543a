"""What is known about one HTTP request while it runs: filled on its way, read by the access log and the metrics."""

import time
from dataclasses import dataclass, field

from app.core.events import (
    AudioDelta,
    Embedded,
    Event,
    Finished,
    ImagesFinished,
    ReasoningDelta,
    Spoken,
    Started,
    TextDelta,
    ToolCallStarted,
    Transcribed,
    Usage,
)
from app.errors import ServerError


@dataclass(slots=True)
class RequestRecord:
    """Times are `time.monotonic()` seconds. Owned by the event loop's thread."""

    request_id: str
    client: str = "-"
    started_at: float = field(default_factory=time.monotonic)
    model: str | None = None
    # What the client itself allows; the model's own limit holds where it is shorter.
    timeout_s: float | None = None
    waited_s: float = 0.0
    first_token_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    # What ended a stream whose status had been sent already.
    error: ServerError | None = None
    # The status in the access line where none was sent.
    status: int | None = None

    def note(self, events: list[Event]) -> None:
        """Take what the access line shows from a batch of events."""
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallStarted() | AudioDelta() if self.first_token_at is None:
                    self.first_token_at = time.monotonic()
                case Started(prompt_tokens, cached_tokens):
                    self.usage = Usage(prompt_tokens, 0, cached_tokens)
                case Finished(usage) | Embedded(_, usage) | Spoken(_, _, usage):
                    self.usage = usage
                    self.finished_at = time.monotonic()
                # The text of a window comes all at once: that tells no speed.
                case Transcribed(_, _, usage):
                    self.usage = usage
                case ImagesFinished(usage):
                    self.usage = Usage(usage.text_tokens + usage.source_tokens, usage.image_tokens)
                case _:
                    pass

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the request's arrival to its first token; None while there is none."""
        return None if self.first_token_at is None else self.first_token_at - self.started_at

    @property
    def tokens_per_s(self) -> float | None:
        """Decoding speed after the first token; None until there are two tokens."""
        if self.usage is None or self.first_token_at is None or self.finished_at is None:
            return None
        num_timed, elapsed_s = self.usage.completion_tokens - 1, self.finished_at - self.first_token_at
        return num_timed / elapsed_s if num_timed > 0 and elapsed_s > 0 else None
