"""What one prefill pass is to do, and what it did."""

from dataclasses import dataclass

import mlx.core as mx

from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.row import Prompt
from app.handler.lm.sampling.logprobs import StepLogprobs


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the next pass feeds: of each of these prompts, those tokens; none of a prompt that is kept whole.

    `leads`: with its last tokens, and what comes after them is asked for.
    """

    prompts: list[Prompt]
    tokens: list[list[int]]
    leads: bool = False
    # How many first tokens of a prompt would take as long.
    cost: int = 0

    @property
    def num_tokens(self) -> int:
        """Of all prompts."""
        return sum(map(len, self.tokens))

    @property
    def is_plain(self) -> bool:
        """Whether its pass can be one with rows that decode."""
        return all(self.tokens) and all(prompt.is_plain for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass did: the prompts it moved on, and their cache if they are done.

    `logprobs` are each prompt's, of the tokens that were predicted; none where they are not told. `logits`, shape
    (prompts, 1, vocabulary), are what comes after the prompts; None where their last tokens have not been fed.
    """

    prompts: list[Prompt]
    cache: BatchCache | None
    logprobs: list[list[StepLogprobs]]
    logits: mx.array | None = None


class PromptFailedError(Exception):
    """What a prompt alone is to blame for, `error`: nobody else's cache was in it."""

    def __init__(self, prompt: Prompt, error: Exception) -> None:
        super().__init__()
        self.prompt = prompt
        self.error = error
