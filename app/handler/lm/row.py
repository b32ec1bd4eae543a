"""One answer inside the engine, and the request it belongs to."""

from dataclasses import dataclass, field

from app.core.events import Candidate, ChoiceEnded, FinishReason, TokenLogprob
from app.handler.lm.answer import Answer, AnswerEvent
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.guides.guide import Guide
from app.handler.lm.kv.caches import Cache
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.logprobs import StepLogprobs
from app.handler.lm.sampling.repetition import RepetitionGuard
from app.handler.lm.sampling.sampling import RowSampler


@dataclass(slots=True, eq=False)
class Row:
    """One choice of a request: the tokens it has so far, and their text."""

    id: int
    request_id: int
    choice: int
    asked: PreparedGeneration
    detokenizer: Detokenizer
    answer: Answer
    sampler: RowSampler
    guide: Guide | None = None
    generated: list[int] = field(default_factory=list)
    num_reasoning: int = 0
    has_ended: bool = False
    _guard: RepetitionGuard | None = None

    def __post_init__(self) -> None:
        if self.asked.repetition_guard is not None:
            self._guard = RepetitionGuard(self.asked.repetition_guard)

    def take(self, token: int, logprobs: StepLogprobs | None, *, is_eos: bool) -> list[AnswerEvent | ChoiceEnded]:
        """The events of a token: what it made certain of the answer, and the row's end if it was the last."""
        self.generated.append(token)
        self.num_reasoning += self.answer.is_reasoning
        events: list[AnswerEvent | ChoiceEnded] = []
        if not is_eos:
            named = None if logprobs is None else self._named(token, logprobs)
            text = self.detokenizer.push(token)
            events += self.answer.take(text, named, is_special=self._is_special(token))
        is_last = is_eos or len(self.generated) >= self.asked.max_tokens
        if self._guard is not None and self._guard.push(token):
            is_last = True
        if is_last or self.answer.is_over:
            events += self.answer.finish(self.detokenizer.finish())
            events.append(ChoiceEnded(self._reason(is_eos=is_eos), self.choice, self.answer.stop_sequence))
        return events

    def _reason(self, *, is_eos: bool) -> FinishReason:
        if self.answer.stop_sequence is not None:
            return "stop"
        if not is_eos and not self.answer.is_over:
            return "length"
        return "tool_calls" if self.answer.has_called else "stop"

    def _is_special(self, token: int) -> bool:
        return self.asked.reading is not None and token in self.asked.reading.special_tokens

    def _named(self, token: int, logprobs: StepLogprobs) -> TokenLogprob:
        name = self.detokenizer.bytes_of
        top = [Candidate(name(other), value) for other, value in logprobs.top]
        return TokenLogprob(name(token), logprobs.chosen, top)


@dataclass(slots=True)
class Request:
    """What the engine knows of a request; `num_cached` once its prompt has begun. `num_told` of its tokens, less than
    that is no progress.
    """

    asked: PreparedGeneration
    rows: list[Row]
    num_cached: int | None = None
    num_told: int = 0


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
    # The last token was told before it was ever fed.
    is_told: bool = False
    # A pass with it has failed: it is tried once more, alone, so that one prompt cannot harm the others.
    is_suspect: bool = False
    has_begun: bool = False
    num_cached: int = 0
    num_prefilled: int = 0
    # Where the last checkpoint was kept, in tokens.
    kept_at: int = 0

    @property
    def keys(self) -> list[int]:
        """Its tokens as the prefix cache tells them apart."""
        return self.asked.keys(self.tokens)

    @property
    def num_whole(self) -> int:
        """How many of its first tokens have to be fed in one pass."""
        return 0 if self.asked.pictures is None else self.asked.pictures.num_whole

    @property
    def tells_logprobs(self) -> bool:
        """Whether the log-probabilities of its tokens are asked for; a row that comes back has told them."""
        return self.asked.echo is not None and self.asked.top_logprobs is not None and not self.is_back

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked of its passes but that its tokens are in its cache after them."""
        is_seen = self.asked.pictures is not None
        return not (is_seen or self.tells_logprobs or self.asked.adapter or self.is_suspect)

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

    def predicted_tokens(self, count: int) -> list[int]:
        """What each of the next `count` tokens to prefill is followed by."""
        return self.tokens[self.num_prefilled + 1 : self.num_prefilled + 1 + count]
