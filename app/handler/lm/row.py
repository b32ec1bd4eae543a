"""One answer inside the engine, and the request it belongs to."""

from dataclasses import dataclass, field

from app.core.events import Candidate, ChoiceEnded, TextDelta, TokenLogprob
from app.handler.lm.caches import Cache
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.grammar import Grammar
from app.handler.lm.logprobs import StepLogprobs
from app.handler.lm.prompt import PreparedGeneration
from app.handler.lm.repetition import RepetitionGuard
from app.handler.lm.sampling import RowSampler
from app.text.stops import StopMatcher


@dataclass(slots=True, eq=False)
class Row:
    """One choice of a request: the tokens it has so far, and their text."""

    id: int
    request_id: int
    choice: int
    asked: PreparedGeneration
    detokenizer: Detokenizer
    stops: StopMatcher
    sampler: RowSampler
    grammar: Grammar | None = None
    generated: list[int] = field(default_factory=list)
    has_ended: bool = False
    # Tokens whose text is not out yet.
    _held_logprobs: list[TokenLogprob] = field(default_factory=list)
    _has_told: bool = False
    _guard: RepetitionGuard | None = None

    def __post_init__(self) -> None:
        if self.asked.repetition_guard is not None:
            self._guard = RepetitionGuard(self.asked.repetition_guard)

    def take(self, token: int, logprobs: StepLogprobs | None, *, is_eos: bool) -> list[TextDelta | ChoiceEnded]:
        """The events of a token: the text that it made certain, and the row's end if it was the last."""
        self.generated.append(token)
        text = "" if is_eos else self.stops.push(self.detokenizer.push(token))
        if logprobs is not None and not is_eos:
            self._held_logprobs.append(self._named(token, logprobs))
        is_last = is_eos or len(self.generated) >= self.asked.max_tokens
        if self._guard is not None and self._guard.push(token):
            is_last = True
        if is_last and self.stops.matched is None:
            text += self.stops.push(self.detokenizer.finish())
            text += self.stops.finish()
        ended = is_last or self.stops.matched is not None
        events: list[TextDelta | ChoiceEnded] = []
        released = self._released(text, ended=ended)
        # An answer without text that was asked for log-probabilities has an empty list of them.
        is_empty = ended and released is not None and not self._has_told
        if text or released or is_empty:
            self._has_told = True
            events.append(TextDelta(text, self.choice, released))
        if ended:
            stop = self.stops.matched
            events.append(ChoiceEnded("stop" if is_eos or stop is not None else "length", self.choice, stop))
        return events

    def _named(self, token: int, logprobs: StepLogprobs) -> TokenLogprob:
        name = self.detokenizer.bytes_of
        top = [Candidate(name(other), value) for other, value in logprobs.top]
        return TokenLogprob(name(token), logprobs.chosen, top)

    def _released(self, text: str, *, ended: bool) -> list[TokenLogprob] | None:
        """The tokens that `text` is made of; what a stop string cut off has none."""
        if self.asked.top_logprobs is None:
            return None
        if ended and self.stops.matched is None:
            released, self._held_logprobs = self._held_logprobs, []
            return released
        size, count = len(text.encode()), 0
        while count < len(self._held_logprobs) and size > 0:
            size -= len(self._held_logprobs[count].token)
            count += 1
        released, self._held_logprobs = self._held_logprobs[:count], self._held_logprobs[count:]
        return released


@dataclass(slots=True, eq=False)
class Prompt:
    """Tokens on their way into the KV cache, and the rows that start from there: the choices of a new request, or a row
    that had to leave the batch and comes back.
    """

    request_id: int
    asked: PreparedGeneration
    rows: list[Row]
    tokens: list[int]
    cache: Cache = field(default_factory=list)
    is_back: bool = False
    has_begun: bool = False
    num_cached: int = 0
    num_prefilled: int = 0
    # Where the last checkpoint was kept, in tokens.
    kept_at: int = 0

    @property
    def num_left(self) -> int:
        """Tokens still to prefill: all but the last, which is fed in the first decode step."""
        return len(self.tokens) - 1 - self.num_prefilled

    def begin(self, cache: Cache, num_tokens: int) -> None:
        """Go on from a cache that holds the first `num_tokens`."""
        self.cache, self.has_begun = cache, True
        self.num_cached = self.num_prefilled = self.kept_at = num_tokens

    def forget_cache(self) -> None:
        """Start again from nothing when it is next."""
        self.cache, self.has_begun = [], False
        self.num_cached = self.num_prefilled = self.kept_at = 0

    def next_tokens(self, count: int) -> list[int]:
        """The next `count` tokens to prefill, or what is left of them."""
        end = min(self.num_prefilled + count, len(self.tokens) - 1)
        return self.tokens[self.num_prefilled : end]
