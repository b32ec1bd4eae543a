"""What is known about one HTTP request while it runs: filled on its way, read by the access log and the metrics."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.core.allowance import Allowance
from app.core.events import (
    AudioDelta,
    ChoiceEnded,
    Embedded,
    Event,
    Finished,
    ImagesFinished,
    ReasoningDelta,
    Spoken,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Transcribed,
    Usage,
)
from app.core.histogram import TOKEN_GAP_BOUNDS, Histogram
from app.errors import ServerError


@dataclass(slots=True)
class RequestRecord:
    """Times are `time.monotonic()` seconds. Owned by the event loop's thread."""

    request_id: str
    client: str = "-"
    # The name of the API key it came with.
    key_name: str | None = None
    # What that key may still use, where it has limits.
    allowance: Allowance | None = None
    started_at: float = field(default_factory=time.monotonic)
    model: str | None = None
    # What the client itself allows; the model's own limit holds where it is shorter.
    timeout_s: float | None = None
    waited_s: float = 0.0
    first_token_at: float | None = None
    finished_at: float | None = None
    # Seconds from one piece of the answer to the next; None while there are no two.
    token_gaps: Histogram | None = None
    usage: Usage | None = None
    # Of each choice, in the order of their ends.
    finish_reasons: list[str] = field(default_factory=list[str])
    # What ended it, perhaps in a stream whose status had been sent already.
    error: ServerError | None = None
    # The status that was sent, or that the access line shows where none was.
    status: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    # Told when the request is over: the metrics, and the limits of its key.
    watchers: list[Callable[["RequestRecord"], None]] = field(default_factory=list)
    _last_piece_at: float | None = None
    _num_pieces: int = 0
    _ended_at: float | None = None

    def note(self, events: list[Event]) -> None:
        """Take what is measured from a batch of events."""
        num_pieces = self._num_pieces
        for event in events:
            match event:
                case TextDelta() | ReasoningDelta() | ToolCallStarted() | ToolCallDelta() | AudioDelta():
                    num_pieces += 1
                case Started(prompt_tokens, cached_tokens):
                    self.usage = Usage(prompt_tokens, 0, cached_tokens)
                case ChoiceEnded(reason):
                    self.finish_reasons.append(reason)
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
        if num_pieces > self._num_pieces:
            self._num_pieces = num_pieces
            self._note_piece(time.monotonic())

    def end(self) -> None:
        """Say that the request is over, once."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            for watcher in self.watchers:
                watcher(self)

    def go_on_alone(self) -> "RequestRecord":
        """The record of work that outlives its request: it has the watchers from now on, and is ended by the worker."""
        own = RequestRecord(self.request_id, self.client, key_name=self.key_name, timeout_s=self.timeout_s)
        own.watchers, self.watchers = self.watchers, []
        return own

    @property
    def duration_s(self) -> float:
        """Seconds from the request's arrival to its end, or to now."""
        return (self._ended_at or time.monotonic()) - self.started_at

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer: of one that was cut off no more than its pieces are known, which is a little less."""
        return max(self.usage.completion_tokens if self.usage else 0, 0 if self.finished_at else self._num_pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and the answer by now."""
        return (self.usage.prompt_tokens if self.usage else 0) + self.generated_tokens

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

    def figures(self) -> dict[str, str | int | float]:
        """What is known of the request by now, as a JSON log shows it; times in seconds."""
        known: dict[str, str | int | float | None] = {
            "request_id": self.request_id,
            "key": self.key_name,
            "model": self.model,
            "duration_s": self.duration_s,
            "queue_wait_s": self.waited_s or None,
            "ttft_s": self.ttft_s,
            "tokens_per_s": self.tokens_per_s,
            "error": (self.error.error_code or self.error.type) if self.error else None,
        }
        if self.usage is not None:
            known["prompt_tokens"] = self.usage.prompt_tokens
            known["cached_tokens"] = self.usage.cached_tokens
            known["generated_tokens"] = self.generated_tokens
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in known.items()
            if value is not None
        }

    def _note_piece(self, now: float) -> None:
        if self._last_piece_at is None:
            self.first_token_at = now
        else:
            if self.token_gaps is None:
                self.token_gaps = Histogram(TOKEN_GAP_BOUNDS)
            self.token_gaps.observe(now - self._last_piece_at)
        self._last_piece_at = now
