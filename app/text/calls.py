"""The calls of an answer as they are read, in pieces."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from app.text.offered import OfferedTool
from app.text.pieces import CallArguments, CallEnded, CallStarted, Piece
from app.text.source import Broken, Reading, Source

_NAME: Final = re.compile(r"[A-Za-z_][\w.\-/]{0,127}")


class Calls:
    """What the bodies of calls write to.

    It adds to `pieces`, in the thread of the reader that owns both. What is written between two pushes becomes one
    piece.
    """

    def __init__(self, source: Source, tools: Sequence[OfferedTool], pieces: list[Piece]) -> None:
        self._source = source
        self._tools = {tool.name: tool for tool in tools}
        self._pieces = pieces
        self._fragments: list[str] = []
        self._start = 0
        self._is_any_name_allowed = False
        self.is_started = False
        self.num_ended = 0

    @property
    def is_strict(self) -> bool:
        """Whether only tools that are offered count."""
        return not self._is_any_name_allowed

    def begin(self, *, is_any_name_allowed: bool) -> None:
        """From here on a call may come, of tools that are offered or of any."""
        self._is_any_name_allowed = is_any_name_allowed
        self._start = self._source.place
        self.num_ended = 0

    def accept(self, name: str) -> OfferedTool:
        """The tool of this name. Errors: Broken where such a call cannot be meant."""
        if tool := self._tools.get(name):
            return tool
        if not (self._is_any_name_allowed and _NAME.fullmatch(name)):
            raise Broken
        return OfferedTool(name, {})

    def is_offered(self, name: str) -> bool:
        """Whether a tool of this name is offered."""
        return name in self._tools

    def start(self, name: str) -> None:
        """A call is certain enough to be told."""
        self._pieces.append(CallStarted(name, self._start))
        self.is_started = True

    def write(self, fragment: str) -> None:
        """Add to the arguments of the call that has started."""
        self._fragments.append(fragment)

    def end(self) -> None:
        """The call is whole; what is read next is not part of it."""
        self.flush()
        self._pieces.append(CallEnded(self._source.place))
        self.is_started = False
        self.num_ended += 1
        self._source.mark()
        self._start = self._source.place

    def abandon(self) -> int:
        """What was read since the last call is none; gives where it began."""
        self.flush()
        self.is_started = False
        return self._start

    def flush(self) -> None:
        """Hand out what was written."""
        if fragment := "".join(self._fragments):
            self._pieces.append(CallArguments(fragment))
        self._fragments.clear()


def another_follows(source: Source, begins: Callable[[str], bool], *, is_list: bool) -> Reading[bool]:
    """Whether another call, of which the first character `begins`, follows one that has ended.

    What separates the two is read then; where none follows, the end of a list.
    """
    place = source.place
    char = yield from source.skip_space()
    if char in (",", ";"):
        source.at += 1
        char = yield from source.skip_space()
    if char and begins(char):
        return True
    if is_list and char == "]":
        source.at += 1
        source.mark()
    else:
        source.rewind(place)
    return False
