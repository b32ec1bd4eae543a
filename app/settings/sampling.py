"""How a model's tokens are drawn where a request does not say."""

from typing import Annotated

from pydantic import Field

from app.settings.fields import Fields
from app.settings.knobs import Knob
from app.settings.types import Count, CountOrZero, Penalty, Seed, Share, SomeShare, Temperature


def _sampling(name: str, text: str, fallback: str, example: str, metavar: str = "X") -> Knob:
    """A sampling default, which also has its name without `default_`."""
    default = f"the model's generation_config.json, else {fallback}"
    return Knob("Sampling defaults", text, metavar, (f"default_{name}", name), default, example)


class SamplingDefaults(Fields):
    """The sampling defaults of one served model."""

    default_max_tokens: Annotated[Count | None, _sampling("max_tokens", "Longest reply.", "4096", "4096", "TOKENS")] = (
        None
    )
    default_temperature: Annotated[
        Temperature | None,
        _sampling("temperature", "Randomness: 0 (always the likeliest token) to 2.", "0.7", "0.7"),
    ] = None
    default_top_p: Annotated[
        SomeShare | None,
        _sampling("top_p", "Keep the likeliest tokens up to this share of probability.", "0.95", "0.95"),
    ] = None
    default_top_k: Annotated[
        CountOrZero | None,
        _sampling("top_k", "Keep this many of the likeliest tokens; 0 for all.", "0 (off)", "40", "N"),
    ] = None
    default_min_p: Annotated[
        Share | None,
        _sampling("min_p", "Drop tokens below this share of the likeliest one's probability.", "0 (off)", "0.05"),
    ] = None
    default_repetition_penalty: Annotated[
        float | None,
        Field(gt=0, le=10),
        _sampling("repetition_penalty", "Divides the score of tokens already seen; 1 is none.", "1.0 (off)", "1.1"),
    ] = None
    default_presence_penalty: Annotated[
        Penalty | None,
        _sampling("presence_penalty", "Taken off the score of tokens already generated.", "0 (off)", "0.5"),
    ] = None
    default_frequency_penalty: Annotated[
        Penalty | None,
        _sampling("frequency_penalty", "The same, once for each time they were generated.", "0 (off)", "0.5"),
    ] = None
    default_seed: Annotated[
        Seed | None,
        _sampling("seed", "Seed that makes replies repeatable.", "none", "42", "N"),
    ] = None
