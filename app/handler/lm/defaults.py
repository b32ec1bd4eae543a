"""What a model does where a request is silent: the server's settings, else the model's own file, else the usual."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from loguru import logger

from app.core.requests import Sampling
from app.errors import InvalidRequest
from app.handler.lm.sampling.parameters import Dry, SamplingParameters
from app.settings import ModelSpec

_MAX_TOKENS = 4096
_TEMPERATURE = 0.7
_TOP_P = 0.95
# Of tokens: more than any vocabulary or context has.
_MOST = 2**30

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Used field by field where a request says nothing."""

    max_tokens: int
    sampling: SamplingParameters

    def resolve(self, asked: Sampling, vocabulary_size: int) -> SamplingParameters:
        """Fill in what `asked` leaves open. Errors: InvalidRequest for a bias on a token that does not exist."""
        bias = asked.logit_bias or {}
        if unknown := [token for token in bias if not 0 <= token < vocabulary_size]:
            raise InvalidRequest(
                f"logit_bias names token {unknown[0]}; this model's tokens are 0 to {vocabulary_size - 1}.",
                param="logit_bias",
            )
        own = self.sampling
        return SamplingParameters(
            temperature=_given(asked.temperature, own.temperature),
            top_p=_given(asked.top_p, own.top_p),
            top_k=_given(asked.top_k, own.top_k),
            min_p=_given(asked.min_p, own.min_p),
            repetition_penalty=_given(asked.repetition_penalty, own.repetition_penalty),
            presence_penalty=_given(asked.presence_penalty, own.presence_penalty),
            frequency_penalty=_given(asked.frequency_penalty, own.frequency_penalty),
            logit_bias=tuple(bias.items()),
            seed=asked.seed if asked.seed is not None else own.seed,
            typical_p=_given(asked.typical_p, own.typical_p),
            xtc_probability=_given(asked.xtc_probability, own.xtc_probability),
            xtc_threshold=_given(asked.xtc_threshold, own.xtc_threshold),
            dry=_dry(asked),
        )


def generation_defaults(spec: ModelSpec, folder: Path) -> GenerationDefaults:
    """The defaults of the model in `folder` under the server's settings `spec`."""
    file = _GenerationConfig(folder / "generation_config.json")
    # A model whose file says `do_sample: false` is meant to be greedy.
    temperature = 0.0 if file.is_greedy else file.number("temperature", _TEMPERATURE, 0.0, 2.0)
    sampling = SamplingParameters(
        temperature=_given(spec.default_temperature, temperature),
        top_p=_given(spec.default_top_p, file.number("top_p", _TOP_P, 0.0, 1.0)),
        top_k=_given(spec.default_top_k, int(file.number("top_k", 0, 0, _MOST))),
        min_p=_given(spec.default_min_p, file.number("min_p", 0.0, 0.0, 1.0)),
        repetition_penalty=_given(spec.default_repetition_penalty, file.number("repetition_penalty", 1.0, 0.01, 10.0)),
        presence_penalty=_given(spec.default_presence_penalty, 0.0),
        frequency_penalty=_given(spec.default_frequency_penalty, 0.0),
        seed=spec.default_seed,
    )
    return GenerationDefaults(
        _given(spec.default_max_tokens, int(file.number("max_new_tokens", _MAX_TOKENS, 1, _MOST))), sampling
    )


def _dry(asked: Sampling) -> Dry | None:
    # As llama.cpp has it, a look at no tokens is no penalty.
    if not asked.dry_multiplier or asked.dry_penalty_last_n == 0:
        return None
    usual = Dry(asked.dry_multiplier)
    return Dry(
        multiplier=asked.dry_multiplier,
        base=_given(asked.dry_base, usual.base),
        allowed_length=_given(asked.dry_allowed_length, usual.allowed_length),
        breakers=usual.breakers if asked.dry_sequence_breakers is None else asked.dry_sequence_breakers,
        last_n=_given(asked.dry_penalty_last_n, usual.last_n),
    )


def _given(value: Number | None, otherwise: Number) -> Number:
    return otherwise if value is None else value


class _GenerationConfig:
    """A model's generation_config.json; one that is missing or broken says nothing."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, object] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logger.warning("{} cannot be read ({}); the usual defaults are used", path.name, error)
            return
        if isinstance(content, dict):
            self._values = content

    @property
    def is_greedy(self) -> bool:
        return self._values.get("do_sample") is False

    def number(self, name: str, otherwise: float, lowest: float, highest: float) -> float:
        """The value of `name`; one that is no number in this range says nothing, as -1 and null often do."""
        value = self._values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
            return otherwise
        return value
