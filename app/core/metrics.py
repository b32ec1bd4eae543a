"""What the server has measured: replies by route, and the work of each model."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.core.histogram import DURATION_BOUNDS, TOKEN_GAP_BOUNDS, Histogram
from app.core.record import RequestRecord

# Enough for a p95 that means something, few enough to sort whenever somebody asks.
_NUM_RECENT = 512


@dataclass(frozen=True, slots=True)
class Figures:
    """One request that a model worked on; times in seconds."""

    duration_s: float
    queue_wait_s: float
    ttft_s: float | None
    tokens_per_s: float | None


@dataclass(slots=True)
class ModelMetrics:
    """The requests of one model that are over. Owned by the event loop's thread."""

    duration: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS))
    queue_wait: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS))
    ttft: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS))
    token_gap: Histogram = field(default_factory=lambda: Histogram(TOKEN_GAP_BOUNDS))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    num_prompts: int = 0
    num_cache_hits: int = 0
    recent: deque[Figures] = field(default_factory=lambda: deque(maxlen=_NUM_RECENT))


class Metrics:
    """All measurements since the server's start. Owned by the event loop's thread."""

    def __init__(self) -> None:
        # By method, route and status.
        self.replies: dict[tuple[str, str, int], int] = {}
        # By route.
        self.reply_durations: dict[str, Histogram] = {}
        self.models: dict[str, ModelMetrics] = {}
        # By the key's name.
        self.key_prompts: dict[str, int] = {}
        self.key_tokens: dict[str, int] = {}

    def take_reply(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a reply. Only what the server itself names may come here, or a client could make series without end."""
        place = (method, route, status)
        self.replies[place] = self.replies.get(place, 0) + 1
        self.reply_durations.setdefault(route, Histogram(DURATION_BOUNDS)).observe(duration_s)

    def take_work(self, record: RequestRecord) -> None:
        """Count what a model did for a request that is over; nothing if its worker never accepted it."""
        if record.model is None or record.usage is None:
            return
        figures = Figures(record.duration_s, record.waited_s, record.ttft_s, record.tokens_per_s)
        model = self.models.setdefault(record.model, ModelMetrics())
        model.recent.append(figures)
        model.duration.observe(figures.duration_s)
        model.queue_wait.observe(figures.queue_wait_s)
        if figures.ttft_s is not None:
            model.ttft.observe(figures.ttft_s)
        if record.token_gaps is not None:
            model.token_gap.add(record.token_gaps)
        model.prompt_tokens += record.usage.prompt_tokens
        model.cached_tokens += record.usage.cached_tokens
        model.generated_tokens += record.generated_tokens
        model.num_prompts += 1
        model.num_cache_hits += record.usage.cached_tokens > 0
        if (key := record.key_name) is not None:
            self.key_prompts[key] = self.key_prompts.get(key, 0) + 1
            self.key_tokens[key] = self.key_tokens.get(key, 0) + record.num_tokens

    def recent(self, names: Iterable[str]) -> list[Figures]:
        """The most recent requests of the named models."""
        return [figures for name in names if name in self.models for figures in self.models[name].recent]
