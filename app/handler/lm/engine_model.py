"""What an engine is made for."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.handler.lm.context_cost import ContextCost
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.drafting import Drafter
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.mixed_pass import MixedPass
from app.handler.lm.row_adapters import RowAdapters
from app.handler.lm.tail import Tail


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What the engine needs to know of its model, which `form` has.

    `tail` where the last tokens of a pass are enough for its head, `mixed` where it takes prompts beside rows.
    """

    form: CacheForm
    eos_tokens: frozenset[int]
    new_detokenizer: Callable[[], Detokenizer]
    drafter: Drafter | None = None
    adapters: RowAdapters = field(default_factory=RowAdapters)
    tail: Tail | None = None
    mixed: MixedPass | None = None
    context_cost: ContextCost = field(default_factory=ContextCost)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The most tokens of a prefill pass, and pairs of a token and one it sees; memory for KV caches of what runs."""

    prefill_tokens: int
    max_kv_bytes: int
    max_pairs: int | None = None
