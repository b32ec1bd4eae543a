"""What the batch knows of its rows, and what it gives them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.handler.lm.guides.guide import Guide
from app.handler.lm.sampling.logprobs import StepLogprobs
from app.handler.lm.sampling.sampling import RowSampler


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A sequence in the batch; `last_token` is the first to be fed, the last of what its cache is to hold by then.

    It is the prompt's last, or one that was generated when the row was in the batch before.
    """

    id: int
    last_token: int
    sampler: RowSampler
    top_logprobs: int | None = None
    guide: Guide | None = None
    # The prompt and every token that a step has given.
    history: Callable[[], list[int]] = list
    # What is added to the place of each of its tokens, by a model that sees.
    position_shift: int = 0
    # The number of its adapter, 0 for none.
    adapter: int = 0
    # `last_token` was told, and never fed: see `DecodeBatch.newest`.
    is_told: bool = False

    @property
    def reads_tokens(self) -> bool:
        """Whether its newest token has to be read before the next one is drawn."""
        return self.sampler.reads_tokens or (self.guide is not None and self.guide.reads_tokens)


# What a row's newest token is, which is fed next: it came with the row and is no news; it was drawn and is to be told;
# or it was told.
News = Literal["came", "drawn", "told"]


@dataclass(frozen=True, slots=True)
class StepToken:
    """What a step gave one row; `token` is None for a row that its guide failed."""

    row_id: int
    token: int | None
    logprobs: StepLogprobs | None = None
