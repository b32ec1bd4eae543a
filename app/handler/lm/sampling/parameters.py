"""What one row asks of its sampler."""

from dataclasses import dataclass

# Below this, dividing by the temperature leaves the range of a float32 (vLLM's limit, too).
LOWEST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Dry:
    """DRY, "don't repeat yourself": a token that would lengthen a repetition of at least `allowed_length` tokens is
    penalised by `multiplier * base ** (length - allowed_length)`; no repetition goes on across a breaker. Only the last
    `last_n` tokens are looked at, or all of them if that is -1.

    Source: https://github.com/oobabooga/text-generation-webui/pull/5677
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    last_n: int = -1


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """What one row asks for, every default filled in. Temperature 0 is greedy; top_k 0 is off."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    # Tokens that XTC never rules out: those that end an answer or a line.
    xtc_spared: tuple[int, ...] = ()
    dry: Dry | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < LOWEST_TEMPERATURE or self.top_k == 1

    @property
    def adjusts_logits(self) -> bool:
        """Whether the logits are changed before a token is drawn."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.dry
        )
