import json
from pathlib import Path

import pytest

from app.core.requests import Sampling
from app.errors import InvalidRequest
from app.handler.lm.defaults import GenerationDefaults, generation_defaults
from app.handler.lm.sampling.parameters import Dry, SamplingParameters
from app.settings import ModelSpec

USUAL = GenerationDefaults(4096, SamplingParameters(temperature=0.7, top_p=0.95))


def defaults(folder: Path, content: object = None, **settings: object) -> GenerationDefaults:
    """Of a model with this generation_config.json, under these settings."""
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return generation_defaults(ModelSpec.model_validate(settings), folder)


def test_no_file(tmp_path: Path) -> None:
    assert defaults(tmp_path) == USUAL


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"text"', "null", "7", "\ufeff{}", "{}"])
def test_a_file_that_says_nothing(tmp_path: Path, content: str) -> None:
    assert defaults(tmp_path, content) == USUAL


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(b'{"temperature": \xff}')
    assert defaults(tmp_path) == USUAL


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").mkdir()
    assert defaults(tmp_path) == USUAL


def test_every_value_that_is_read(tmp_path: Path) -> None:
    content = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "max_new_tokens": 99,
        "eos_token_id": [1, 2],
    }
    own = defaults(tmp_path, content)
    assert own == GenerationDefaults(99, SamplingParameters(0.6, 0.8, 20, 0.05, 1.1))
    assert isinstance(own.sampling.top_k, int)
    assert isinstance(own.max_tokens, int)


def test_do_sample_false_is_greedy_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    content = {"do_sample": False, "temperature": 0.6}
    assert defaults(tmp_path, content).sampling.is_greedy
    assert defaults(tmp_path, content, default_temperature=0.5).sampling.temperature == 0.5


def test_the_settings_go_before_the_file(tmp_path: Path) -> None:
    content = {"temperature": 0.6, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    own = defaults(
        tmp_path,
        content | {"max_new_tokens": 5},
        default_max_tokens=7,
        default_temperature=0.0,
        default_top_p=0.5,
        default_top_k=0,
        default_min_p=0.0,
        default_repetition_penalty=1.0,
        default_presence_penalty=0.3,
        default_frequency_penalty=0.4,
        default_seed=0,
    )
    assert own == GenerationDefaults(7, SamplingParameters(0.0, 0.5, 0, 0.0, 1.0, 0.3, 0.4, (), 0))


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens"])
@pytest.mark.parametrize(
    "value", ["null", "true", '"0.5"', "[0.5]", "{}", "-1", "NaN", "Infinity", "-Infinity", "1e400"]
)
def test_a_value_that_cannot_be_meant_says_nothing(tmp_path: Path, name: str, value: str) -> None:
    assert defaults(tmp_path, f'{{"{name}": {value}}}') == USUAL


def test_a_request_goes_before_everything_field_by_field() -> None:
    own = GenerationDefaults(10, SamplingParameters(0.6, 0.8, 20, 0.05, 1.1, 0.3, 0.4, (), 7))
    assert own.resolve(Sampling(), 100) == own.sampling
    asked = Sampling(0.0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, {99: -1.5, 0: 2}, 0)
    assert own.resolve(asked, 100) == SamplingParameters(0.0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, ((99, -1.5), (0, 2)), 0)
    assert own.resolve(Sampling(top_k=3), 100).temperature == 0.6


def test_samplers_that_only_a_request_can_ask_for() -> None:
    usual = USUAL.resolve(Sampling(dry_base=2.0, xtc_threshold=0.3, typical_p=0.5), 100)
    assert (usual.typical_p, usual.xtc_probability, usual.dry) == (0.5, 0.0, None)
    xtc = USUAL.resolve(Sampling(xtc_probability=0.5), 100)
    assert (xtc.xtc_probability, xtc.xtc_threshold) == (0.5, 0.1)
    assert USUAL.resolve(Sampling(dry_multiplier=0.8), 100).dry == Dry(0.8, 1.75, 2, ("\n", ":", '"', "*"), -1)
    asked = Sampling(
        dry_multiplier=1.0, dry_base=1.5, dry_allowed_length=3, dry_sequence_breakers=(), dry_penalty_last_n=64
    )
    assert USUAL.resolve(asked, 100).dry == Dry(1.0, 1.5, 3, (), 64)
    assert USUAL.resolve(Sampling(dry_multiplier=0.8, dry_penalty_last_n=0), 100).dry is None
    assert USUAL.resolve(Sampling(dry_multiplier=0.0), 100).dry is None


@pytest.mark.parametrize("token", [-1, 100, 10**6])
def test_a_bias_on_no_token(token: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"token {token}; this model's tokens are 0 to 99") as refusal:
        USUAL.resolve(Sampling(logit_bias={5: 1.0, token: 1.0}), 100)
    assert refusal.value.param == "logit_bias"
