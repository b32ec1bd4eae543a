"""Requests of every kind in one engine, at random times: each says what it says alone, and none leaves anything."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from app.core.completion import Choice, Completion
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from app.handler.lm.guides.guide_builder import AnswerForm, GuideBuilder
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.kv_budget import KvBudget
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.parameters import Dry, SamplingParameters
from tests.fixtures.choosing import schema_format
from tests.fixtures.driving import check_order
from tests.fixtures.engine_bench import Bench, bench
from tests.fixtures.json_schemas import record
from tests.fixtures.tiny_lm import VOCABULARY_SIZE, Loaded, load_folder

EOS = frozenset({2})
NO_EOS: frozenset[int] = frozenset()
MIXTURES_PER_ENGINE = 10
NUM_KINDS = 39
SCHEMA = record(color={"enum": ["red", "green"]}, ok={"type": "boolean"})
BAN = tuple((token, -100.0) for token in range(500, VOCABULARY_SIZE))
SAMPLINGS = (
    SamplingParameters(0.0),
    SamplingParameters(1.0),
    SamplingParameters(0.7, top_p=0.95),
    SamplingParameters(1.0, top_k=20, min_p=0.01),
    SamplingParameters(1.0, top_k=300, top_p=0.9),
    SamplingParameters(1.3, typical_p=0.8),
    SamplingParameters(1.0, top_p=0.9, xtc_probability=0.5, xtc_threshold=0.05, xtc_spared=(2,)),
    SamplingParameters(0.0, presence_penalty=1.0, frequency_penalty=0.5),
    SamplingParameters(1.0, repetition_penalty=1.5),
    SamplingParameters(0.0, repetition_penalty=1.3, logit_bias=((40, 5.0),)),
    SamplingParameters(1.0, logit_bias=BAN),
    SamplingParameters(0.0, dry=Dry(5.0, allowed_length=1)),
    SamplingParameters(1.0, top_k=40, dry=Dry(2.0, breakers=("a",))),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A request that comes again and again, and what it says alone."""

    asked: PreparedGeneration
    alone: Completion

    @property
    def is_certain(self) -> bool:
        return self.asked.sampling.is_greedy or self.asked.sampling.seed is not None


@dataclass(frozen=True, slots=True)
class Pool:
    loaded: Loaded
    kinds: list[Kind]
    # Three of these outgrow the memory of an engine that has little.
    long_kinds: list[Kind]


@pytest.fixture(scope="module", params=["llama", "gemma3", "lfm2"])
def pool(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> Pool:
    loaded = load_folder(model_folder(request.param))
    draw = random.Random(request.param)
    compiler = GrammarCompiler(loaded.tokenizer._tokenizer, VOCABULARY_SIZE, EOS)
    asked = [drawn_request(compiler, number, draw) for number in range(NUM_KINDS)]
    long = [
        PreparedGeneration(draw.choices(range(3, 300), k=9), 100, replace(sampling, seed=7))
        for sampling in SAMPLINGS[1:]
    ]
    return Pool(loaded, [alone(loaded, one) for one in asked], [alone(loaded, one, NO_EOS) for one in long])


def alone(loaded: Loaded, asked: PreparedGeneration, eos: frozenset[int] = EOS) -> Kind:
    test = bench(loaded, eos, cache_bytes=0)
    test.add_asking(0, asked)
    test.run()
    return Kind(asked, test.log.whole(0))


def drawn_request(compiler: GrammarCompiler, number: int, draw: random.Random) -> PreparedGeneration:
    # Some begin alike.
    start = random.Random(draw.randrange(3)).choices(range(3, 300), k=draw.choice([0, 20, 70]))
    prompt = start + draw.choices(range(3, 300), k=draw.randint(1, 12))
    sampling = replace(SAMPLINGS[number % len(SAMPLINGS)], seed=draw.choice([None, 1, 2**40]))
    asked = PreparedGeneration(
        prompt,
        draw.choice([1, 2, 5, 12, 25]),
        sampling,
        stop=draw.choice([(), (), ("a",), ("or", "the", "e")]),
        num_choices=draw.choice([1, 1, 1, 3]),
        top_logprobs=draw.choice([None, None, None, 0, 3]),
        cache_namespace=draw.choice(["", "", "other"]),
        repetition_guard=draw.choice([None, None, 3]),
    )
    if draw.random() < 0.25:
        guide = GuideBuilder(compiler).build(AnswerForm(schema_format(SCHEMA)), 40)
        asked = replace(asked, max_tokens=40, stop=(), repetition_guard=None, guide=guide)
    return asked


def check(test: Bench, request_id: int, kind: Kind, *, was_cancelled: bool) -> None:
    if was_cancelled:
        assert not test.log.is_over(request_id)
        told = test.log.text(request_id)
        if kind.is_certain and kind.asked.num_choices == 1:
            assert kind.alone.choices[0].text.startswith(told)
        return
    check_order(test.log.events[request_id])
    whole = test.log.whole(request_id)
    assert whole.usage.prompt_tokens == len(kind.asked.prompt)
    assert len(whole.choices) == kind.asked.num_choices
    for choice, alone in zip(whole.choices, kind.alone.choices, strict=True):
        if kind.is_certain:
            check_same(choice, alone)
        check_possible(choice, kind.asked)
    if kind.is_certain:
        assert whole.usage.completion_tokens == kind.alone.usage.completion_tokens


def check_same(choice: Choice, alone: Choice) -> None:
    assert (choice.text, choice.reason, choice.stop_sequence) == (alone.text, alone.reason, alone.stop_sequence)
    pairs = zip(choice.logprobs or [], alone.logprobs or [], strict=True)
    for one, other in pairs:
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [top.logprob for top in one.top] == pytest.approx([top.logprob for top in other.top], abs=1e-3)


def check_possible(choice: Choice, asked: PreparedGeneration) -> None:
    """What holds of any answer, whatever was drawn."""
    assert (choice.logprobs is None) == (asked.top_logprobs is None)
    assert not any(stop in choice.text for stop in asked.stop)
    assert choice.stop_sequence is None or choice.stop_sequence in asked.stop
    if asked.guide is not None:
        assert choice.reason == "stop"
        Draft202012Validator(SCHEMA).validate(json.loads(choice.text))
    if choice.logprobs is not None and choice.stop_sequence is None:
        assert b"".join(one.token for one in choice.logprobs).decode(errors="replace") == choice.text
        assert all(len(one.top) == (asked.top_logprobs or 0) for one in choice.logprobs)


def engine(pool: Pool, cache_bytes: int, num_rows: int, eos: frozenset[int] = EOS) -> Bench:
    """With the memory for so many rows of 100 tokens."""
    budget = KvBudget.of(CacheForm(pool.loaded.model), 0)
    kv_bytes = num_rows * (budget.row_bytes + 100 * budget.token_bytes)
    return bench(pool.loaded, eos, cache_bytes=cache_bytes, kv_bytes=kv_bytes)


def mix(
    test: Bench, kinds: list[Kind], draw: random.Random, last_arrival: int = 12, share_cancelled: float = 0.25
) -> int:
    """Requests from beginning to end; gives how many had to leave and come back."""
    chosen = dict(enumerate(kinds, start=len(test.log.events)))
    arrivals = {request_id: draw.randint(0, last_arrival) for request_id in chosen}
    cancels = {one: arrivals[one] + draw.randint(0, 15) for one in chosen if draw.random() < share_cancelled}
    cancelled: set[int] = set()
    came_back: set[int] = set()
    turn, is_busy = 0, True
    while turn <= max(arrivals.values()) or is_busy:
        for request_id, kind in chosen.items():
            if arrivals[request_id] == turn:
                test.add_asking(request_id, kind.asked)
            if cancels.get(request_id) == turn and not test.log.is_over(request_id):
                test.engine.cancel(request_id)
                cancelled.add(request_id)
        is_busy = test.engine.turn()
        came_back |= {prompt.request_id for prompt in test.engine._line if prompt.rows[0].generated}
        turn += 1
    # No row is left anywhere.
    test.run()
    assert not test.engine._answering
    for request_id, kind in chosen.items():
        check(test, request_id, kind, was_cancelled=request_id in cancelled)
    return len(came_back)


@pytest.mark.parametrize("seed", range(7))
def test_each_says_what_it_says_alone(pool: Pool, seed: int) -> None:
    draw = random.Random(seed)
    test = engine(pool, cache_bytes=draw.choice([0, 1 << 20, 1 << 30]), num_rows=100 if seed % 2 else 3)
    for _ in range(MIXTURES_PER_ENGINE):
        mix(test, draw.choices(pool.kinds, k=draw.randint(3, 8)), draw)


def test_rows_that_had_to_leave_go_on_where_they_were(pool: Pool) -> None:
    """Each has numbers, counts or a context that is to go on, too."""
    test = engine(pool, cache_bytes=0, num_rows=3, eos=NO_EOS)
    draw = random.Random(1)
    for first in range(0, len(pool.long_kinds), 3):
        assert mix(test, pool.long_kinds[first : first + 3], draw, last_arrival=4, share_cancelled=0.0) > 0


def test_the_kinds_are_of_every_kind(pool: Pool) -> None:
    """What is mixed is worth mixing."""
    asked = [kind.asked for kind in pool.kinds]
    assert sum(kind.is_certain for kind in pool.kinds) > NUM_KINDS // 2
    assert {kind.alone.choices[0].reason for kind in pool.kinds} == {"stop", "length"}
    assert any(choice.stop_sequence for kind in pool.kinds for choice in kind.alone.choices)
    assert any(one.guide and one.sampling.seed for one in asked)
    assert any(one.guide and one.top_logprobs for one in asked)
    assert any(one.num_choices == 3 and one.sampling.dry for one in asked)
    assert {one.sampling for one in asked if one.sampling.seed is None} <= set(SAMPLINGS)
