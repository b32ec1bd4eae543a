"""What a model's text is made of: answer, reasoning and calls of tools."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A stretch of the answer, verbatim; `start` is the place of its first character in the raw text."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Thought:
    """A stretch of the reasoning, verbatim."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call has begun at `start`.

    Its `CallEnded` comes only when it is whole. If the text ends inside it, nothing comes any more. If it proves to be
    no call after all, its text follows as `Content` or `Thought`: any piece but its arguments means that.
    """

    name: str
    start: int


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Some of the JSON text of the call's arguments; the fragments of a whole call join to one object."""

    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is whole; `end` is the place after it in the raw text."""

    end: int


Piece = Content | Thought | CallStarted | CallArguments | CallEnded
