"""How much of a prompt to prefill between two decode steps."""

from app.handler.lm.pass_cost import FEWEST_TOKENS, PassCost

# A chunk may take as long as this many decode steps: with the step after it, or in it, a running stream's gap grows to
# about 7 of its usual ones.
_STEPS_PER_CHUNK = 6.0
_STEPS_PER_MIXED_PASS = 7.3
# Where even the shortest pass takes longer than that, shorter passes would only hold the stream up more often.
_SHORTEST_PASSES_PER_CHUNK = 2.0
# A pass that holds up no stream may take so long: who comes meanwhile waits for its end, and so does a cancellation.
_LONE_PASS_S = 0.5
# Of a model so large that even the shortest pass takes long, short passes would be mostly the reading of its weights.
_SHORTEST_PASSES_PER_LONE_PASS = 8.0
_FIRST_PASS_TOKENS = 256
# While prompts never end, there is no step by itself to be measured.
_MIXED_PASSES_BETWEEN_STEPS = 64
# How much the newest measurement of a step counts.
_WEIGHT = 0.2


class Pace:
    """Measures the model and sizes the chunks. Owned by the worker's main thread."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._step_s: float | None = None
        self._step_rows = 0
        self._num_mixed_since_step = 0
        self._start_s: float | None = None
        self._cost = PassCost()
        self._mixed_cost = PassCost()

    def knows_step(self, num_rows: int) -> bool:
        """Whether a step was measured of about so many rows, and not too long ago: they see more and more tokens."""
        is_recent = self._num_mixed_since_step < _MIXED_PASSES_BETWEEN_STEPS
        return self._step_s is not None and is_recent and num_rows <= 2 * self._step_rows <= 4 * num_rows

    def note_step(self, seconds: float, num_rows: int) -> None:
        """A decode step of so many rows took this long, from the end of the one before."""
        self._step_s = _mean(self._step_s if num_rows == self._step_rows else None, seconds, _WEIGHT)
        self._step_rows = num_rows
        self._num_mixed_since_step = 0

    def note_start(self, seconds: float) -> None:
        """It took this long to start a step that had none before it to wait for."""
        self._start_s = _mean(self._start_s, seconds, _WEIGHT)

    def note_prefill(self, num_tokens: int, seconds: float, *, waited_for_step: bool) -> None:
        """A pass over this many tokens took this long, and the step that was being computed when it began, too."""
        if waited_for_step:
            # A GPU had all of that step before it. MLX's CPU back end does most of a step while it is being started.
            ahead_s = max(0.0, (self._step_s or 0.0) - (self._start_s or 0.0))
            seconds = max(seconds / 2, seconds - ahead_s)
        self._cost.note(num_tokens, seconds)

    def note_mixed(self, num_tokens: int, seconds: float) -> None:
        """A pass over this many tokens and those of the rows took this long."""
        self._mixed_cost.note(num_tokens, seconds)
        self._num_mixed_since_step += 1

    def chunk_tokens(self, num_decoding: int, num_waiting: int, *, is_mixed: bool = False) -> int:
        """Tokens for the next pass: the more rows wait for each one that it holds up, the more.

        `is_mixed`: the rows' own tokens are in it.
        """
        if not num_decoding:
            if not self._cost.is_known:
                return min(self._most_tokens, _FIRST_PASS_TOKENS)
            seconds = max(_LONE_PASS_S, _SHORTEST_PASSES_PER_LONE_PASS * (self._cost.shortest_s or 0.0))
            return self._cost.tokens_in(seconds, self._most_tokens)
        if self._step_s is None or not self._cost.is_known:
            return min(self._most_tokens, 2 * FEWEST_TOKENS)
        cost = self._mixed_cost if is_mixed and self._mixed_cost.is_known else self._cost
        num_steps = _STEPS_PER_MIXED_PASS if cost is self._mixed_cost else _STEPS_PER_CHUNK
        seconds = num_steps * self._step_s * max(1.0, num_waiting / num_decoding)
        shortest_s = cost.shortest_s or 0.0
        if shortest_s > seconds:
            seconds = _SHORTEST_PASSES_PER_CHUNK * shortest_s
        return cost.tokens_in(seconds, self._most_tokens)


def _mean(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)
