"""Items that a response is giving: the events of each, and the item when it is whole.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from app.api.responses.frames import FrameWriter, delta_start
from app.api.responses.ids import new_id
from app.api.responses.reasoning import sealed
from app.api.responses.toolbox import CUSTOM_PARAMETER, Offer
from app.core.events import Candidate, TokenLogprob

Ending = Literal["completed", "incomplete"]
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown beside the text: thoughts as a summary too, and sealed; and whether nobody waits for it."""

    has_summary: bool = False
    is_sealed: bool = False
    is_background: bool = False


class _Places:
    """What an item's events say of it."""

    def __init__(self, frames: FrameWriter, index: int, prefix: str) -> None:
        self.frames = frames
        self.id = new_id(prefix)
        self.index = index
        self.of_item = {"item_id": self.id, "output_index": index}
        self.of_part = {**self.of_item, "content_index": 0}

    def added(self, item: dict[str, object]) -> bytes:
        return self.frames.frame("response.output_item.added", output_index=self.index, item=item)

    def done(self, item: dict[str, object]) -> bytes:
        return self.frames.frame("response.output_item.done", output_index=self.index, item=item)


class MessageItem:
    """A message: one part of text."""

    def __init__(self, frames: FrameWriter, index: int) -> None:
        self._places = _Places(frames, index, "msg")
        self._frames = frames
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, object]] = []
        self._delta = delta_start("response.output_text.delta", **self._places.of_part)

    def open(self) -> bytes:
        """The events of its beginning."""
        added = self._places.added(self._item("in_progress", []))
        return added + self._frames.frame("response.content_part.added", **self._places.of_part, part=self._part(""))

    def add(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """The event of a piece."""
        self._pieces.append(text)
        if not logprobs:
            return self._frames.delta(self._delta, text, b',"logprobs":[]')
        shown = [_candidate(one) | {"top_logprobs": [_candidate(top) for top in one.top]} for one in logprobs]
        self._logprobs += shown
        return self._frames.delta(self._delta, text, b',"logprobs":' + _json(shown))

    def close(self, ending: Ending) -> bytes:
        """The events of its end."""
        text, part = "".join(self._pieces), self._places.of_part
        return b"".join(
            (
                self._frames.frame("response.output_text.done", **part, text=text, logprobs=self._logprobs),
                self._frames.frame("response.content_part.done", **part, part=self._part(text)),
                self._places.done(self.whole(ending)),
            )
        )

    def whole(self, ending: Ending) -> dict[str, object]:
        """The item as it would be if it ended now."""
        return self._item(ending, [self._part("".join(self._pieces))])

    def _item(self, status: str, content: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self._places.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self, text: str) -> dict[str, object]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}


class ReasoningItem:
    """A thought: one part of text, the same as a summary where one is asked for, and sealed where that is."""

    def __init__(self, frames: FrameWriter, index: int, shown: Shown) -> None:
        self._places = _Places(frames, index, "rs")
        self._frames = frames
        self._has_summary = shown.has_summary
        self._is_sealed = shown.is_sealed
        self._pieces: list[str] = []
        self._of_summary = {**self._places.of_item, "summary_index": 0}
        self._delta = delta_start("response.reasoning_text.delta", **self._places.of_part)
        self._summary_delta = delta_start("response.reasoning_summary_text.delta", **self._of_summary)

    def open(self) -> bytes:
        """The events of its beginning."""
        opened = self._places.added(self._item("in_progress", []) | {"summary": []})
        opened += self._frames.frame("response.content_part.added", **self._places.of_part, part=_thought(""))
        if self._has_summary:
            part = _summary("")
            opened += self._frames.frame("response.reasoning_summary_part.added", **self._of_summary, part=part)
        return opened

    def add(self, text: str) -> bytes:
        """The events of a piece."""
        self._pieces.append(text)
        delta = self._frames.delta(self._delta, text)
        return delta + self._frames.delta(self._summary_delta, text) if self._has_summary else delta

    def close(self, ending: Ending) -> bytes:
        """The events of its end."""
        text, of_part = "".join(self._pieces), self._places.of_part
        closed = self._frames.frame("response.reasoning_text.done", **of_part, text=text)
        closed += self._frames.frame("response.content_part.done", **of_part, part=_thought(text))
        if self._has_summary:
            done, part = "response.reasoning_summary_text.done", _summary(text)
            closed += self._frames.frame(done, **self._of_summary, text=text)
            closed += self._frames.frame("response.reasoning_summary_part.done", **self._of_summary, part=part)
        return closed + self._places.done(self.whole(ending))

    def whole(self, ending: Ending) -> dict[str, object]:
        """The item as it would be if it ended now."""
        text = "".join(self._pieces)
        item = self._item(ending, [_thought(text)]) | {"summary": [_summary(text)] if self._has_summary else []}
        return item | {"encrypted_content": sealed(text)} if self._is_sealed else item

    def _item(self, status: str, content: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self._places.id, "type": "reasoning", "status": status, "content": content}


class FunctionCallItem:
    """A call of a function, whose arguments come in pieces."""

    def __init__(self, frames: FrameWriter, index: int, call_id: str, offer: Offer) -> None:
        self._places = _Places(frames, index, "fc")
        self._frames = frames
        self._call_id = call_id
        self._offer = offer
        self._pieces: list[str] = []
        self._delta = delta_start("response.function_call_arguments.delta", **self._places.of_item)

    def open(self) -> bytes:
        """The events of its beginning."""
        return self._places.added(self._item("in_progress", ""))

    def add(self, arguments: str) -> bytes:
        """The event of a piece."""
        self._pieces.append(arguments)
        return self._frames.delta(self._delta, arguments)

    def close(self, ending: Ending) -> bytes:
        """The events of its end."""
        said = {"name": self._offer.name, "arguments": "".join(self._pieces)}
        done = self._frames.frame("response.function_call_arguments.done", **self._places.of_item, **said)
        return done + self._places.done(self.whole(ending))

    def whole(self, ending: Ending) -> dict[str, object]:
        """The item as it would be if it ended now."""
        return self._item(ending, "".join(self._pieces))

    def _item(self, status: str, arguments: str) -> dict[str, object]:
        item = {"id": self._places.id, "type": "function_call", "status": status, "call_id": self._call_id}
        return item | _named(self._offer) | {"arguments": arguments}


class CustomCallItem:
    """A call of a custom tool: its input is inside the arguments, and is given in one piece when they are whole."""

    def __init__(self, frames: FrameWriter, index: int, call_id: str, offer: Offer) -> None:
        self._places = _Places(frames, index, "ctc")
        self._frames = frames
        self._call_id = call_id
        self._offer = offer
        self._pieces: list[str] = []
        self._delta = delta_start("response.custom_tool_call_input.delta", **self._places.of_item)

    def open(self) -> bytes:
        """The events of its beginning."""
        return self._places.added(self._item("in_progress", ""))

    def add(self, arguments: str) -> bytes:
        """Keeps a piece: nothing is said of it yet."""
        self._pieces.append(arguments)
        return b""

    def close(self, ending: Ending) -> bytes:
        """The events of its end."""
        text, done = self._input(), "response.custom_tool_call_input.done"
        closed = self._frames.delta(self._delta, text) if text else b""
        closed += self._frames.frame(done, **self._places.of_item, input=text)
        return closed + self._places.done(self.whole(ending))

    def whole(self, ending: Ending) -> dict[str, object]:
        """The item as it would be if it ended now."""
        return self._item(ending, self._input())

    def _item(self, status: str, text: str) -> dict[str, object]:
        item = {"id": self._places.id, "type": "custom_tool_call", "status": status, "call_id": self._call_id}
        return item | _named(self._offer) | {"input": text}

    def _input(self) -> str:
        """The input that the arguments hold; where they hold none, as when they are cut off, the arguments."""
        arguments = "".join(self._pieces)
        try:
            return msgspec.json.decode(arguments, type=dict[str, str])[CUSTOM_PARAMETER]
        except (msgspec.DecodeError, KeyError):
            return arguments


OutputItem = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem


def _named(offer: Offer) -> dict[str, object]:
    """The client's name for what is called."""
    return {"name": offer.name} if offer.namespace is None else {"name": offer.name, "namespace": offer.namespace}


def _thought(text: str) -> dict[str, object]:
    return {"type": "reasoning_text", "text": text}


def _summary(text: str) -> dict[str, object]:
    return {"type": "summary_text", "text": text}


def _candidate(one: TokenLogprob | Candidate) -> dict[str, object]:
    return {"token": one.token.decode("utf-8", "replace"), "logprob": one.logprob, "bytes": list(one.token)}
