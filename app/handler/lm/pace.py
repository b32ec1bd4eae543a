"""How much of a prompt to prefill between two decode steps."""

# A chunk may take as long as this many decode steps: a running stream's gap grows to about 7 of its usual ones, and
# a newcomer waits at most 7 / 6 as long as it would alone.
_STEPS_PER_CHUNK = 6.0
_FEWEST_TOKENS = 16
# How much the newest measurement counts. Slower is believed at once: it is the one that somebody waits for.
_WEIGHT = 0.2
_WEIGHT_OF_CHUNK = 0.5
_WEIGHT_OF_SLOWER_CHUNK = 0.8


class Pace:
    """Measures the model and sizes the chunks. Owned by the worker's main thread."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._step_s: float | None = None
        self._start_s: float | None = None
        self._prefill_token_s: float | None = None

    def note_step(self, seconds: float) -> None:
        """A decode step took this long, from the end of the one before."""
        self._step_s = _mean(self._step_s, seconds, _WEIGHT)

    def note_start(self, seconds: float) -> None:
        """It took this long to start a step that had none before it to wait for."""
        self._start_s = _mean(self._start_s, seconds, _WEIGHT)

    def note_prefill(self, num_tokens: int, seconds: float, *, waited_for_step: bool) -> None:
        """A pass over this many tokens took this long, and the step that was being computed when it began, too."""
        if waited_for_step:
            # A GPU had all of that step before it. MLX's CPU back end does most of a step while it is being started.
            ahead_s = max(0.0, (self._step_s or 0.0) - (self._start_s or 0.0))
            seconds = max(seconds / 2, seconds - ahead_s)
        token_s = seconds / num_tokens
        is_slower = self._prefill_token_s is not None and token_s > self._prefill_token_s
        weight = _WEIGHT_OF_SLOWER_CHUNK if is_slower else _WEIGHT_OF_CHUNK
        self._prefill_token_s = _mean(self._prefill_token_s, token_s, weight)

    def chunk_tokens(self, num_decoding: int, num_waiting: int) -> int:
        """Tokens for the next chunk: the more rows wait for each one that a chunk holds up, the more."""
        if not num_decoding:
            return self._most_tokens
        if self._step_s is None or self._prefill_token_s is None:
            return min(self._most_tokens, 2 * _FEWEST_TOKENS)
        seconds = _STEPS_PER_CHUNK * self._step_s * max(1.0, num_waiting / num_decoding)
        return max(_FEWEST_TOKENS, min(self._most_tokens, int(seconds / self._prefill_token_s)))


def _mean(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)
