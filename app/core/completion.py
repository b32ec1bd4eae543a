"""A whole generation, folded from its events: what a non-streaming reply shows."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.core.events import (
    ChoiceEnded,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)


@dataclass(slots=True)
class TextPart:
    """A stretch of the answer."""

    text: str


@dataclass(slots=True)
class ReasoningPart:
    """A stretch of what the model thought before or between."""

    text: str


@dataclass(slots=True)
class CallPart:
    """A call; `arguments` is JSON text, cut off where the call is not complete."""

    id: str
    name: str
    arguments: str = ""
    is_complete: bool = False


Part = TextPart | ReasoningPart | CallPart


@dataclass(slots=True)
class Choice:
    """One whole answer, its parts in the order they came."""

    parts: list[Part] = field(default_factory=list)
    reason: FinishReason = "stop"
    stop_sequence: str | None = None
    logprobs: list[TokenLogprob] | None = None

    @property
    def text(self) -> str:
        """The answer without reasoning and calls."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def reasoning(self) -> str:
        """What the model thought."""
        return "".join(part.text for part in self.parts if isinstance(part, ReasoningPart))

    @property
    def calls(self) -> list[CallPart]:
        """The calls in order."""
        return [part for part in self.parts if isinstance(part, CallPart)]


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation; the choices in order."""

    choices: list[Choice]
    usage: Usage


def fold(events: Iterable[Event]) -> Completion:
    """Fold a generation's events. Errors: ValueError when they do not end with `Finished`."""
    folders: dict[int, _Folder] = {}
    for event in events:
        match event:
            case (
                TextDelta(choice=index)
                | ReasoningDelta(choice=index)
                | ToolCallStarted(choice=index)
                | ToolCallDelta(choice=index)
                | ToolCallEnded(choice=index)
                | ChoiceEnded(choice=index)
            ):
                folders.setdefault(index, _Folder()).take(event)
            case Finished(usage):
                return Completion([folders[index].choice for index in sorted(folders)], usage)
            case _:
                pass
    raise ValueError("a generation ended without its Finished event")


class _Folder:
    """Folds the events of one choice; the pieces of the last part are joined when it is over."""

    def __init__(self) -> None:
        self.choice = Choice()
        self._pieces: list[str] = []

    def take(
        self, event: TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | ToolCallEnded | ChoiceEnded
    ) -> None:
        choice = self.choice
        match event:
            case TextDelta(text, _, logprobs):
                if logprobs is not None:
                    choice.logprobs = (choice.logprobs or []) + logprobs
                self._add(TextPart, text)
            case ReasoningDelta(text):
                self._add(ReasoningPart, text)
            case ToolCallStarted(_, call_id, name):
                self._begin()
                choice.parts.append(CallPart(call_id, name))
            case ToolCallDelta(_, arguments):
                self._pieces.append(arguments)
            case ToolCallEnded():
                self._join()
                choice.calls[-1].is_complete = True
            case ChoiceEnded(reason, _, stop_sequence):
                self._join()
                choice.reason, choice.stop_sequence = reason, stop_sequence

    def _add(self, kind: type[TextPart | ReasoningPart], text: str) -> None:
        if text and not (self.choice.parts and isinstance(self.choice.parts[-1], kind)):
            self._begin()
            self.choice.parts.append(kind(""))
        self._pieces.append(text)

    def _begin(self) -> None:
        """Another part follows. A call that was not complete by now was none: its text is that part."""
        self._join()
        last = self.choice.parts[-1] if self.choice.parts else None
        if isinstance(last, CallPart) and not last.is_complete:
            self.choice.parts.pop()

    def _join(self) -> None:
        text, self._pieces = "".join(self._pieces), []
        last = self.choice.parts[-1] if self.choice.parts else None
        if isinstance(last, CallPart):
            last.arguments += text
        elif last is not None:
            last.text += text
