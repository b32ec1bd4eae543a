"""Whether a worker gets on with its work: judged from what it answers when it is asked, again and again."""

from app.core.frames import Pulse

# How often a worker is asked within its limit. Looks are counted, not time: where the server itself was stopped for a
# while, or the whole machine slept, that is no fault of the worker's.
NUM_LOOKS = 4


class PulseWatch:
    """What one worker has answered. Owned by the event loop's thread."""

    def __init__(self) -> None:
        self._num_silent = 0
        self._last = Pulse(None, None)
        # How often in a row each thread was found in the piece of work that it was in before.
        self._same_turn = 0
        self._same_preparation = 0

    @property
    def is_answered(self) -> bool:
        """Whether it may be asked again: questions that pile up would all be answered at once."""
        return not self._num_silent

    @property
    def fault(self) -> str | None:
        """What the worker does not get on with, once that has lasted for its limit."""
        if self._num_silent >= NUM_LOOKS:
            return "it did not answer"
        if self._same_turn >= NUM_LOOKS:
            return "its main thread did not get on"
        if self._same_preparation >= NUM_LOOKS:
            return "it did not get on with preparing a request"
        return None

    def look(self) -> None:
        """The worker was asked, or has still not answered."""
        self._num_silent += 1

    def note(self, pulse: Pulse) -> None:
        """The worker has answered."""
        last, self._last = self._last, pulse
        self._num_silent = 0
        self._same_turn = self._same_turn + 1 if pulse.turn is not None and pulse.turn == last.turn else 0
        is_same = pulse.preparation is not None and pulse.preparation == last.preparation
        self._same_preparation = self._same_preparation + 1 if is_same else 0
