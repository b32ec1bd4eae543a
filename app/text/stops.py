"""Stop strings, matched on text however it is cut into pieces."""


class StopMatcher:
    """Lets text through until the first stop string is complete, holding back what may be the start of one.

    The first to be complete wins; of several complete at the same character, the longest. What comes out depends on the
    whole text only, not on how it was cut.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(sorted(stops, key=len, reverse=True))
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """Take more text; gives what is certain to be before any stop string."""
        if not self._stops:
            return piece
        if self.matched is not None:
            return ""
        text = self._held + piece
        if found := self._first(text):
            start, self.matched = found
            self._held = ""
            return text[:start]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text has ended: what was held back was no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        return best and best[1:]

    def _undecided(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
