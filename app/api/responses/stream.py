"""Events to the events of a streamed response, and to the response that they end in."""

import time
from collections.abc import Sequence
from dataclasses import replace

from app.api.replies import COMMENT
from app.api.responses.frames import FrameWriter
from app.api.responses.output_items import (
    CustomCallItem,
    Ending,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    Shown,
)
from app.api.responses.response_object import ResponseObject, Standing, Status
from app.api.responses.toolbox import Toolbox
from app.core.events import (
    ChoiceEnded,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from app.errors import ServerError

# Of the prefill of a prompt so long so many steps are told: for a shorter one nobody loses patience.
_TOLD_STEPS = 10
_TOLD_FROM_TOKENS = 1000


class ResponseStream:
    """One response's encoding; a reply in one piece is its end. Owned by the event loop's thread."""

    def __init__(self, about: ResponseObject, toolbox: Toolbox, shown: Shown) -> None:
        self.about = about
        # Finished items.
        self.output: list[dict[str, object]] = []
        self.has_begun = False
        self._toolbox = toolbox
        self._shown = shown
        self._frames = FrameWriter()
        self._standing = Standing("queued" if shown.is_background else "in_progress", self.output)
        self._open: OutputItem | None = None
        self._num_opened = 0
        self._reason: FinishReason = "stop"
        self._held_logprobs: list[TokenLogprob] = []
        self._told_steps = 0

    @property
    def status(self) -> Status:
        """How the response stands."""
        return self._standing.status

    def begin(self) -> bytes:
        """The events before anything is known; nothing when they were given already."""
        if self.has_begun:
            return b""
        self.has_begun = True
        return self._lifecycle("created") + self._lifecycle(self.status)

    def heartbeat(self) -> bytes:
        """What fills a silence: an event, as there are clients whose patience a comment does not renew."""
        if self.status not in ("queued", "in_progress"):
            # The last event is for `end` to give, when the response is kept.
            return COMMENT
        return self.begin() or self._lifecycle(self.status)

    def encode(self, events: Sequence[Event]) -> bytes:
        """The events of a batch; the last event of the response is not among them."""
        return b"".join(map(self._encoded, events))

    def complete(self) -> None:
        """The generation is over."""
        if self._reason == "length":
            self._stand(status="incomplete")
        else:
            self._stand(status="completed", completed_at=int(time.time()))

    def fail(self, error: ServerError | None) -> None:
        """The generation was ended by `error`, or without one because nobody wants it any more."""
        if self._open is not None:
            self.output.append(self._open.whole("incomplete"))
            self._open = None
        self._stand(status="cancelled" if error is None else "failed", error=error)

    def response(self) -> bytes:
        """The response as it stands."""
        return self.about.encode(self._standing)

    def end(self, response: bytes) -> bytes:
        """The last event, with what the response ended as."""
        # A response that was cancelled has no event of its own.
        kind = "failed" if self.status == "cancelled" else self.status
        return self.begin() + self._frames.lifecycle(f"response.{kind}", response)

    def _stand(self, **fields: object) -> None:
        self._standing = replace(self._standing, **fields)

    def _lifecycle(self, kind: str) -> bytes:
        return self._frames.lifecycle(f"response.{kind}", self.response())

    def _encoded(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, _, logprobs):
                return self._told(text, logprobs)
            case ReasoningDelta(text):
                return self._thought(text)
            case ToolCallDelta(_, arguments) if isinstance(self._open, FunctionCallItem | CustomCallItem):
                return self._open.add(arguments)
            case ToolCallStarted(_, call_id, name):
                return self._called(call_id, name)
            case ToolCallEnded():
                return self._close("completed")
            case _:
                return self._rarer(event)

    def _rarer(self, event: Event) -> bytes:
        match event:
            case Started():
                was_queued = self.has_begun and self.status == "queued"
                self._stand(status="in_progress")
                return self._lifecycle("in_progress") if was_queued else self.begin()
            case PrefillProgress(done, total) if total >= _TOLD_FROM_TOKENS:
                before, self._told_steps = self._told_steps, done * _TOLD_STEPS // total
                return self._lifecycle("in_progress") if before < self._told_steps < _TOLD_STEPS else b""
            case ChoiceEnded(reason):
                return self._ended(reason)
            case Finished(usage):
                self._stand(usage=usage)
                return b""
            case _:
                return b""

    def _told(self, text: str, logprobs: Sequence[TokenLogprob] | None) -> bytes:
        if logprobs is not None:
            self._held_logprobs += logprobs
        if not text:
            return b""
        item, opened = self._open, b""
        if not isinstance(item, MessageItem):
            item = MessageItem(self._frames, self._num_opened)
            opened = self._begun(item)
        told, self._held_logprobs = item.add(text, self._held_logprobs), []
        return opened + told

    def _thought(self, text: str) -> bytes:
        item, opened = self._open, b""
        if not isinstance(item, ReasoningItem):
            item = ReasoningItem(self._frames, self._num_opened, self._shown)
            opened = self._begun(item)
        return opened + item.add(text)

    def _called(self, call_id: str, name: str) -> bytes:
        offer = self._toolbox.find(name)
        call = CustomCallItem if offer.is_custom else FunctionCallItem
        return self._begun(call(self._frames, self._num_opened, call_id, offer))

    def _ended(self, reason: FinishReason) -> bytes:
        self._reason = reason
        is_cut_off = reason == "length" or isinstance(self._open, FunctionCallItem | CustomCallItem)
        closed = self._close("incomplete" if is_cut_off else "completed")
        if self.output or reason == "length":
            return closed
        # An answer of nothing is an answer: clients look for a message.
        return closed + self._begun(MessageItem(self._frames, self._num_opened)) + self._close("completed")

    def _begun(self, item: OutputItem) -> bytes:
        """Another item follows. A call that was not complete by now was none: what it seemed to be is told as text."""
        before = self._open
        if isinstance(before, FunctionCallItem | CustomCallItem):
            closed = before.close("incomplete")
        else:
            closed = self._close("completed")
        self._open = item
        self._num_opened += 1
        return closed + item.open()

    def _close(self, ending: Ending) -> bytes:
        """The item that is being given is over, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return b""
        last = b""
        if isinstance(item, MessageItem) and self._held_logprobs:
            last, self._held_logprobs = item.add("", self._held_logprobs), []
        self.output.append(item.whole(ending))
        return last + item.close(ending)
