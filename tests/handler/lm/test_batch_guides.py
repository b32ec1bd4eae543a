"""Guided rows in a batch: what each says does not depend on its neighbours, nor on what is fed ahead."""

import json
import random
from dataclasses import dataclass, field, replace

import pytest
from mlx_lm.models.cache import make_prompt_cache

from app.core.output_format import Choice, JsonSchema
from app.errors import InternalError
from app.handler.lm.batch import BatchRow, DecodeBatch
from app.handler.lm.guides.grammar_compiler import CallFormat, GrammarCompiler
from app.handler.lm.guides.guide import Guide
from app.handler.lm.guides.guide_builder import AnswerForm, GuideBuilder, LateForm, ReasoningForm
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.parameters import Dry, SamplingParameters
from app.handler.lm.sampling.sampling import RowSampler
from tests.fixtures.choosing import schema_format
from tests.fixtures.engine_bench import GREEDY, bench
from tests.fixtures.json_schemas import record
from tests.fixtures.tiny_lm import VOCABULARY_SIZE, Loaded

EOS = 2
MAX_TOKENS = 50
LONG_KEYS = record(
    customer_full_name={"enum": ["the quick brown fox", "the quick lazy dog"]},
    is_gift_wrapped={"type": "boolean"},
    shipping_address={"type": "string", "maxLength": 6},
)
CALL = CallFormat('start: schema_0 "</call>"', (JsonSchema(json.dumps(record(arguments={"type": "null"}))),))
FORMS = {
    "whole": AnswerForm(schema_format(LONG_KEYS)),
    "after reasoning": AnswerForm(
        schema_format(LONG_KEYS), reasoning=ReasoningForm("<t>", "</t>", "\n</t>\n\n", is_open=True, budget=9)
    ),
    "after reasoning perhaps": AnswerForm(
        schema_format(LONG_KEYS), reasoning=ReasoningForm("<t>", "</t>", "\n</t>\n\n", budget=5)
    ),
    "a budget": AnswerForm(reasoning=ReasoningForm("<think>", "</think>", "\n</think>\n\n", is_open=True, budget=6)),
    # Openings that come often.
    "late": AnswerForm(late=(LateForm("a", CALL), LateForm(" the", CALL))),
}
SAMPLINGS = (
    SamplingParameters(0.0),
    SamplingParameters(1.0, seed=5),
    SamplingParameters(1.3, top_k=40, top_p=0.95, xtc_probability=0.5, xtc_threshold=0.05, seed=6),
    SamplingParameters(1.0, seed=7, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
    SamplingParameters(0.0, dry=Dry(3.0, allowed_length=1)),
)


@dataclass(slots=True)
class Speaker:
    """A row wherever it is: what it has said is kept when it leaves."""

    id: int
    prompt: list[int]
    sampler: RowSampler
    guide: Guide | None
    top_logprobs: int | None = None
    told: list[int] = field(default_factory=list)
    num_logprobs: int = 0
    has_failed: bool = False

    @property
    def is_over(self) -> bool:
        return self.has_failed or EOS in self.told or len(self.told) >= MAX_TOKENS

    def history(self) -> list[int]:
        return self.prompt + self.told


@dataclass(slots=True)
class Company:
    """A batch, and those who speak in it."""

    loaded: Loaded
    batch: DecodeBatch
    inside: dict[int, Speaker] = field(default_factory=dict)
    num_steps: int = 0

    def join(self, *speakers: Speaker) -> None:
        cache = BatchCache.of([make_prompt_cache(self.loaded.model) for _ in speakers])
        cache.feed(self.loaded.model, [one.history()[:-1] for one in speakers])
        rows = [
            BatchRow(one.id, one.history()[-1], one.sampler, one.top_logprobs, one.guide, one.history)
            for one in speakers
        ]
        self.batch.join(rows, cache)
        self.inside |= {one.id: one for one in speakers}

    def leave(self, *speakers: Speaker) -> None:
        self.batch.remove({one.id for one in speakers})
        for one in speakers:
            del self.inside[one.id]

    def step(self) -> None:
        self.num_steps += 1
        for given in self.batch.step():
            one = self.inside[given.row_id]
            if one.is_over:
                continue
            if given.token is None:
                one.has_failed = True
                continue
            one.told.append(given.token)
            one.num_logprobs += given.logprobs is not None
        self.leave(*[one for one in self.inside.values() if one.is_over])

    def run(self) -> None:
        while self.inside:
            self.step()


@dataclass(frozen=True, slots=True)
class Casting:
    """Brings speakers up."""

    loaded: Loaded
    builder: GuideBuilder

    def company(self) -> Company:
        return Company(self.loaded, DecodeBatch(self.loaded.model, frozenset({EOS})))

    def speaker(self, number: int, form: str | None, sampling: SamplingParameters) -> Speaker:
        prompt = random.Random(number % 7).choices(range(3, 300), k=2 + number % 5)
        guide = self.builder.build(FORMS[form], MAX_TOKENS) if form is not None else None
        return Speaker(number, prompt, RowSampler(sampling, prompt), guide)

    def alone(self, speaker: Speaker) -> list[int]:
        """What it says alone, with nothing fed ahead."""
        company = self.company()
        company.batch._certain = lambda _: []  # type: ignore[method-assign]
        company.join(speaker)
        company.run()
        assert not speaker.has_failed
        return speaker.told


@pytest.fixture(scope="module")
def casting(batched: Loaded) -> Casting:
    compiler = GrammarCompiler(batched.tokenizer._tokenizer, VOCABULARY_SIZE, (EOS,))
    return Casting(batched, GuideBuilder(compiler))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_certain_is_fed_at_once_and_changes_nothing(casting: Casting, form: str) -> None:
    num_saved = 0
    for number, sampling in enumerate(SAMPLINGS):
        expected = casting.alone(casting.speaker(number, form, sampling))
        one, company = casting.speaker(number, form, sampling), casting.company()
        company.join(one)
        company.run()
        assert one.told == expected
        num_saved += len(one.told) - company.num_steps
    # The steps saved are more than the ones that give nothing yet.
    assert num_saved > 9


@pytest.mark.parametrize("seed", range(3))
def test_what_each_says_does_not_depend_on_who_comes_and_goes(casting: Casting, seed: int) -> None:
    """Rows leave and come back, too, and are alone now and then."""
    draw = random.Random(seed)
    asked = [(number, draw.choice([None, *FORMS]), draw.choice(SAMPLINGS)) for number in range(5)]
    expected = {number: casting.alone(casting.speaker(number, form, one)) for number, form, one in asked}
    waiting = [casting.speaker(*one) for one in asked]
    company, everybody, was_alone = casting.company(), list(waiting), False
    while waiting or company.inside:
        if waiting and (not company.inside or draw.random() < 0.15):
            company.join(waiting.pop(draw.randrange(len(waiting))))
        if company.inside and draw.random() < 0.1:
            one = draw.choice(list(company.inside.values()))
            company.leave(one)
            waiting.append(one)
        was_alone |= len(company.inside) == 1 and len(waiting) > 0
        company.step()
    assert was_alone
    for one in everybody:
        assert not one.has_failed
        assert one.told == expected[one.id], one.id


def test_log_probabilities_are_told_of_every_token(casting: Casting) -> None:
    one, company = replace(casting.speaker(1, "whole", GREEDY), top_logprobs=2), casting.company()
    company.join(one)
    company.run()
    assert one.num_logprobs == len(one.told) > 20
    assert one.told == casting.alone(casting.speaker(1, "whole", GREEDY))


@pytest.mark.parametrize("company_size", [0, 3])
def test_a_guide_that_fails_fails_its_own_row(casting: Casting, company_size: int) -> None:
    """None of its tokens is one that the model has."""
    compiler = GrammarCompiler(casting.loaded.tokenizer._tokenizer, 40, (EOS,))
    failing = replace(casting.speaker(90, None, GREEDY), guide=compiler.compile(Choice(("☃☃",))))
    others = [casting.speaker(number, "whole", SAMPLINGS[1]) for number in range(company_size)]
    expected = [casting.alone(casting.speaker(number, "whole", SAMPLINGS[1])) for number in range(company_size)]
    company = casting.company()
    company.join(failing, *others)
    company.run()
    assert failing.has_failed
    assert failing.told == []
    assert [one.told for one in others] == expected


class Stumbling:
    """A guide that forces a token and does not get over it."""

    reads_tokens = True

    def allowed(self) -> None:
        return None

    def forced(self) -> list[int]:
        return [5]

    def advance(self, token: int) -> None:
        raise InternalError(f"{token}")

    def copy(self) -> "Stumbling":
        return self


def test_a_guide_that_fails_ahead_fails_its_row(casting: Casting) -> None:
    one, company = replace(casting.speaker(1, None, GREEDY), guide=Stumbling()), casting.company()
    company.join(one)
    company.run()
    assert one.has_failed
    assert one.told == []


def test_no_more_is_fed_ahead_than_an_answer_takes(casting: Casting) -> None:
    guide = casting.builder.build(FORMS["whole"], 3)
    assert guide is not None
    assert len(guide.forced()) == 3
    assert len(casting.builder._grammars.compile(schema_format(LONG_KEYS)).forced()) > 3


def test_a_row_without_a_guide_reads_no_token_early(casting: Casting) -> None:
    asked = [(None, False), ("whole", True), ("a budget", False), ("late", True)]
    for form, reads in asked:
        one = casting.speaker(3, form, GREEDY)
        assert BatchRow(1, 5, one.sampler, guide=one.guide).reads_tokens == reads


@pytest.mark.parametrize("stop", [(), ("gift",)])
def test_what_is_kept_of_a_row_that_was_fed_ahead_is_right(casting: Casting, stop: tuple[str, ...]) -> None:
    """With a stop string, the row ends among tokens that were certain."""
    grammar = casting.builder._grammars.compile(schema_format(LONG_KEYS)).start(60)
    test = bench(casting.loaded, frozenset({EOS}))
    prompt = [5, 6, 7, 8, 9, 10, 11, 12] * 3
    test.add_asking(0, PreparedGeneration(prompt, 60, GREEDY, stop, guide=grammar))
    (row,) = test.engine._answering._requests[0].rows
    test.run()
    assert test.log.completion(0).stop_sequence == (stop[0] if stop else None)
    longer = [*prompt, *row.generated, 20, 21, 22]
    test.add(1, longer)
    test.run()
    assert test.log.completion(1).text == test.reference(longer)
