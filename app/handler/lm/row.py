"""One request inside the engine."""

from dataclasses import dataclass

from app.core.events import Finished, Usage
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.prompt import PreparedGeneration
from app.text.stops import StopMatcher


@dataclass(slots=True, eq=False)
class Row:
    """A request from its arrival to its last token: what it asked for and the text it has so far."""

    id: int
    asked: PreparedGeneration
    detokenizer: Detokenizer
    stops: StopMatcher
    num_prefilled: int = 0
    num_generated: int = 0

    @property
    def num_left_to_prefill(self) -> int:
        """All but the prompt's last token, which is fed in the first decode step."""
        return len(self.asked.prompt) - 1 - self.num_prefilled

    def next_tokens(self, count: int) -> list[int]:
        """The next `count` prompt tokens to prefill, or what is left of them."""
        end = min(self.num_prefilled + count, len(self.asked.prompt) - 1)
        return self.asked.prompt[self.num_prefilled : end]

    def take(self, token: int, *, is_eos: bool) -> tuple[str, Finished | None]:
        """The text that `token` made certain, and how the row ends if this was its last."""
        self.num_generated += 1
        text = "" if is_eos else self.stops.push(self.detokenizer.push(token))
        is_last = is_eos or self.num_generated >= self.asked.max_tokens
        if is_last and self.stops.matched is None:
            text += self.stops.push(self.detokenizer.finish())
            text += self.stops.finish()
        usage = Usage(len(self.asked.prompt), self.num_generated)
        if self.stops.matched is not None:
            return text, Finished("stop", usage, self.stops.matched)
        if is_last:
            return text, Finished("stop" if is_eos else "length", usage)
        return text, None
