"""How far a thread of a worker is, for whoever wants to know whether it gets on."""


class Steps:
    """The pieces of work of one thread, which alone writes here; the reader only looks."""

    __slots__ = ("_count", "current")

    def __init__(self) -> None:
        self._count = 0
        self.current: int | None = None  # None while the thread waits for something to do

    def begin(self) -> None:
        """The thread goes on to its next piece of work."""
        self._count += 1
        self.current = self._count

    def rest(self) -> None:
        """The thread has nothing to do."""
        self.current = None
