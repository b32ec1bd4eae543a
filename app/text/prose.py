"""The text of an answer or of its reasoning, without what only separates it from markup."""

from typing import Literal

from app.text.pieces import Content, Piece, Thought
from app.text.source import SPACE


class Prose:
    """Hands out text verbatim, as pieces, in the thread of its reader.

    White space and noise are held back until it is known what follows. Beside markup they are dropped, but where text
    goes on behind markup, the white space nearest to it stays between the two. Elsewhere they are text.
    """

    def __init__(self, kind: type[Content | Thought], pieces: list[Piece]) -> None:
        self.kind: type[Content | Thought] = kind
        self._pieces = pieces
        self.has_text = False
        self.before: Literal["start", "text", "markup"] = "start"
        self._gap: list[str] = []
        self._gap_place = 0
        # How much of the gap ends in noise.
        self._num_to_noise = 0
        self._earlier: Content | Thought | None = None

    @property
    def is_flowing(self) -> bool:
        """Whether text that comes now goes out as it is."""
        return self.before == "text" and not self._gap

    def add(self, text: str, place: int) -> None:
        """Take text; `place` is where it is in the raw text."""
        core = text.strip(SPACE)
        start = text.find(core) if core else len(text)
        if start:
            self._hold(text[:start], place)
        if core:
            self._settle(core, place + start)
            if end := text[start + len(core) :]:
                self._hold(end, place + start + len(core))

    def add_noise(self, marker: str, place: int) -> None:
        """Take a text that means nothing, unless it turns out to be between words."""
        self._hold(marker, place)
        self._num_to_noise = len(self._gap)

    def cut(self) -> None:
        """There is markup here."""
        gap = "".join(self._gap)
        if self.before == "text" and (space := gap[: len(gap) - len(gap.lstrip(SPACE))]):
            self._earlier = self.kind(space, self._gap_place)
        self.before = "markup"
        self._drop_gap()

    def finish(self) -> None:
        """The text has ended. White space at its ends belongs to an answer that has no markup there."""
        if self._gap and self.before != "markup" and not self._num_to_noise:
            self._pieces.append(self.kind("".join(self._gap), self._gap_place))
        self._drop_gap()

    def _hold(self, text: str, place: int) -> None:
        if not self._gap:
            self._gap_place = place
        self._gap.append(text)

    def _settle(self, text: str, place: int) -> None:
        """Hand out text with what it needs of the gap before it."""
        if self._gap or self.before != "text":
            separated = self.before == "markup" or (self.before == "start" and self._num_to_noise > 0)
            gap = "".join(self._gap[self._num_to_noise :] if separated else self._gap)
            if separated and not self.has_text:
                gap = ""
            elif separated and not gap and self._earlier is not None:
                self._pieces.append(self._earlier)
            text, place = gap + text, place - len(gap)
            self._drop_gap()
        self._earlier = None
        self.before = "text"
        self.has_text = True
        self._pieces.append(self.kind(text, place))

    def _drop_gap(self) -> None:
        self._gap.clear()
        self._num_to_noise = 0
