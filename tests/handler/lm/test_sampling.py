import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.handler.lm.sampling import BatchSampler, RowSampler, SamplingParameters

Floats = npt.NDArray[np.float32]

GREEDY = SamplingParameters(temperature=0.0)
PLAIN = SamplingParameters(temperature=1.0)
VOCABULARY = 50


def batch(*asked: SamplingParameters, prompt: list[int] | None = None) -> BatchSampler:
    return BatchSampler([RowSampler(one, prompt or []) for one in asked])


def draw(sampler: BatchSampler, logits: Floats | mx.array, fed: list[int] | None = None) -> list[int]:
    """One step; `fed` are the tokens generated before it, None where the rows are at their prompt's last token."""
    rows = logits.shape[0]
    tokens = mx.array(fed or [0] * rows, dtype=mx.uint32)
    chosen: list[int] = sampler(mx.array(logits), tokens, [fed is None] * rows).tolist()  # type: ignore[assignment]
    return chosen


def random_logits(rows: int, vocabulary: int = VOCABULARY, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(scale=2.0, size=(rows, vocabulary)).astype(np.float32)


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


class TestGreedy:
    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
    def test_the_likeliest_token(self, dtype: mx.Dtype) -> None:
        logits = mx.array(random_logits(8)).astype(dtype)
        expected = np.argmax(np.array(logits.astype(mx.float32)), axis=-1).tolist()
        assert draw(batch(*[GREEDY] * 8), logits) == expected
        assert draw(batch(*[GREEDY] * 7, PLAIN), logits)[:7] == expected[:7]

    def test_of_two_equally_likely_tokens_the_first(self) -> None:
        logits = np.zeros((1, VOCABULARY), np.float32)
        logits[0, [11, 7, 30]] = 5.0
        assert draw(batch(GREEDY), logits) == [7]

    @pytest.mark.parametrize(
        "asked",
        [replace(PLAIN, top_k=1), replace(PLAIN, top_p=1e-9), replace(PLAIN, min_p=1.0), replace(PLAIN, top_p=0.0)],
    )
    def test_limits_that_leave_one_token(self, asked: SamplingParameters) -> None:
        logits = random_logits(20)
        asked_by_seed = [replace(asked, seed=seed) for seed in range(20)]
        assert draw(batch(*asked_by_seed), logits) == np.argmax(logits, axis=-1).tolist()

    @pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6, 1e-4, 1e-3])
    def test_a_temperature_close_to_zero_is_greedy_too(self, temperature: float) -> None:
        logits = random_logits(20)
        asked = [SamplingParameters(temperature, top_p=0.9, seed=seed) for seed in range(20)]
        assert draw(batch(*asked), logits) == np.argmax(logits, axis=-1).tolist()


class TestDistribution:
    """Chi-square against the probabilities asked for; the seeds are fixed, so the outcome is too."""

    NUM_DRAWS = 4000

    def statistic(self, asked: SamplingParameters, logits: Floats, expected: npt.NDArray[np.float64]) -> float:
        sampler = batch(*(replace(asked, seed=seed) for seed in range(self.NUM_DRAWS)))
        chosen = draw(sampler, np.repeat(logits[None], self.NUM_DRAWS, axis=0))
        counts = np.bincount(chosen, minlength=len(logits))
        possible = expected > 0
        assert not counts[~possible].any()
        wanted = expected[possible] * self.NUM_DRAWS
        return float((((counts[possible] - wanted) ** 2) / wanted).sum())

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_softmax(self, temperature: float) -> None:
        logits = random_logits(1, 8)[0]
        asked = replace(PLAIN, temperature=temperature)
        # 24.3 is passed once in a thousand with 7 degrees of freedom.
        assert self.statistic(asked, logits, softmax(logits / temperature)) < 24.3

    def test_what_a_limit_leaves_is_in_proportion(self) -> None:
        logits = random_logits(1, 8)[0]
        expected = softmax(logits)
        expected[np.argsort(-logits)[4:]] = 0.0
        # 16.3 is passed once in a thousand with 3 degrees of freedom.
        assert self.statistic(replace(PLAIN, top_k=4), logits, expected / expected.sum()) < 16.3

    def test_the_steps_of_one_row(self) -> None:
        logits = random_logits(1, 8)
        sampler = batch(replace(PLAIN, seed=5))
        chosen = [draw(sampler, logits)[0] for _ in range(1500)]
        wanted = softmax(logits[0]) * len(chosen)
        assert (((np.bincount(chosen, minlength=8) - wanted) ** 2) / wanted).sum() < 24.3

    def test_unseeded_rows_differ(self) -> None:
        flat = np.zeros((40, VOCABULARY), np.float32)
        assert len(set(draw(batch(*[PLAIN] * 40), flat))) > 5

    @pytest.mark.parametrize("vocabulary", [10, 200_000])
    def test_the_largest_random_number_still_finds_a_token(self, vocabulary: int) -> None:
        row = RowSampler(PLAIN, [])
        row._random = Fixed(1.0 - 2.0**-53)
        assert 0.999999 < row.uniform() < 1.0
        logits = np.zeros((1, vocabulary), np.float32)
        logits[0, vocabulary // 2 :] = -np.inf
        assert 0 < draw(BatchSampler([row]), logits)[0] < vocabulary // 2

    def test_the_smallest_random_number_finds_no_impossible_token(self) -> None:
        row = RowSampler(PLAIN, [])
        row._random = Fixed(0.0)
        logits = np.zeros((1, VOCABULARY), np.float32)
        logits[0, :5] = -np.inf
        assert draw(BatchSampler([row]), logits) == [5]


class Fixed(random.Random):
    """Gives the same number for ever."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


def expected_set(logits: Floats, asked: SamplingParameters) -> tuple[set[int], float]:
    """The tokens left, and how far the nearest one is from the other side of its limit.

    Of equally likely tokens those with the lower ids go first.
    """
    probabilities = softmax(logits / asked.temperature)
    order = np.argsort(-logits, kind="stable")
    kept = order[: asked.top_k or len(order)]
    share = probabilities[kept] / probabilities[kept].sum()
    before = np.cumsum(share) - share
    is_kept = (before < asked.top_p) | (np.arange(len(kept)) == 0) | (asked.top_p >= 1.0)
    margins = [abs(before[1:] - asked.top_p)] if asked.top_p < 1.0 else []
    kept = kept[is_kept]
    ratio = probabilities[kept] / probabilities.max()
    # At a ratio of exactly one, equal numbers are compared: no rounding can go wrong.
    margins.append(abs(ratio[ratio != 1.0] - asked.min_p))
    return set(kept[ratio >= asked.min_p].tolist()), float(min((m.min() for m in margins if m.size), default=1.0))


def kept_set(sampler: BatchSampler, logits: Floats, temperature: float) -> list[set[int]]:
    left = np.array(sampler._filtered(mx.softmax(mx.array(logits) / temperature, axis=-1)))
    return [set(np.flatnonzero(row).tolist()) for row in left]


class TestLimits:
    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(
        # Few different values: many tokens are equally likely.
        values=st.lists(st.integers(-8, 8), min_size=2, max_size=VOCABULARY),
        # One is greedy, and has no limits to look at.
        top_k=st.integers(2, VOCABULARY + 20) | st.just(0),
        top_p=st.sampled_from([1.0]) | st.floats(0.01, 1.0),
        min_p=st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0),
        temperature=st.sampled_from([0.5, 1.0, 2.0]),
    )
    def test_exactly_the_right_tokens_are_left(
        self, values: list[int], top_k: int, top_p: float, min_p: float, temperature: float
    ) -> None:
        logits = np.array([value / 2 for value in values], np.float32)
        asked = SamplingParameters(temperature, top_p, top_k, min_p)
        expected, margin = expected_set(logits, asked)
        assume(margin > 1e-5)
        wild = SamplingParameters(temperature, top_p=0.3, top_k=2, min_p=0.2)
        for others in ([], [PLAIN], [wild], [wild, PLAIN, GREEDY]):
            sampler = batch(asked, *others)
            assert kept_set(sampler, np.repeat(logits[None], 1 + len(others), axis=0), temperature)[0] == expected

    def test_a_share_that_is_reached_exactly_is_enough(self) -> None:
        even = np.zeros((1, 4), np.float32)
        assert kept_set(batch(replace(PLAIN, top_p=0.5)), even, 1.0) == [{0, 1}]
        assert kept_set(batch(replace(PLAIN, top_p=0.75, top_k=2)), even, 1.0) == [{0, 1}]
        assert kept_set(batch(replace(PLAIN, top_p=0.5, top_k=2)), even, 1.0) == [{0}]

    def test_k_larger_than_the_vocabulary_is_no_limit(self) -> None:
        logits = random_logits(1)
        assert kept_set(batch(replace(PLAIN, top_k=10**6)), logits, 1.0) == [set(range(VOCABULARY))]

    def test_top_p_of_one_keeps_the_unlikeliest_token_beside_a_row_with_a_limit(self) -> None:
        logits = random_logits(2, 20_000)
        sampler = batch(PLAIN, replace(PLAIN, top_p=0.5))
        assert len(kept_set(sampler, logits, 1.0)[0]) == 20_000

    def test_a_token_that_is_impossible_stays_so(self) -> None:
        logits = np.full((200, VOCABULARY), -np.inf, np.float32)
        logits[:, [3, 40]] = 0.0
        for asked in (PLAIN, replace(PLAIN, top_k=10), replace(PLAIN, top_p=0.9), replace(PLAIN, min_p=0.1)):
            chosen = draw(batch(*(replace(asked, seed=seed) for seed in range(200))), logits)
            assert set(chosen) == {3, 40}


class TestPenalties:
    """Against the definitions, token by token: OpenAI's for presence and frequency, Hugging Face's for repetition."""

    ASKED = (
        replace(GREEDY, presence_penalty=1.5),
        replace(GREEDY, frequency_penalty=0.7),
        replace(GREEDY, presence_penalty=-0.5, frequency_penalty=-0.4),
        replace(GREEDY, repetition_penalty=1.6),
        replace(GREEDY, repetition_penalty=0.7),
        replace(GREEDY, presence_penalty=0.4, frequency_penalty=0.3, repetition_penalty=1.2),
        replace(GREEDY, logit_bias=((3, 4.0), (7, -100.0), (9, 2.5))),
        replace(GREEDY, logit_bias=((3, 1.0),), presence_penalty=1.0, repetition_penalty=1.3),
    )
    PROMPT: tuple[int, ...] = (1, 2, 3, 3, 45, 49)

    @staticmethod
    def penalised(logits: Floats, asked: SamplingParameters, prompt: list[int], generated: list[int]) -> Floats:
        result = logits.astype(np.float32).copy()
        for token in {*prompt, *generated}:
            penalty = asked.repetition_penalty
            result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
        for token in set(generated):
            result[token] -= asked.frequency_penalty * generated.count(token) + asked.presence_penalty
        for token, bias in asked.logit_bias:
            result[token] += bias
        return result

    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
    @pytest.mark.parametrize("extra", [(), (GREEDY,), (PLAIN, GREEDY)], ids=["alone", "greedy", "mixed"])
    def test_twelve_steps(self, extra: tuple[SamplingParameters, ...], dtype: mx.Dtype) -> None:
        prompt = list(self.PROMPT)
        rows = [*extra, *self.ASKED]
        sampler = batch(*rows, prompt=prompt)
        generated: list[list[int]] = [[] for _ in rows]
        fed = None
        for step in range(12):
            # Close together, so that penalties decide.
            logits = mx.array(random_logits(len(rows), seed=step // 4) * 0.5).astype(dtype)
            fed = draw(sampler, logits, fed)
            wide = np.array(logits.astype(mx.float32))
            for index in range(len(extra), len(rows)):
                expected = self.penalised(wide[index], rows[index], prompt, generated[index])
                assert fed[index] == int(np.argmax(expected)), (step, rows[index])
                generated[index].append(fed[index])
        assert sum(len(set(row)) > 1 for row in generated[len(extra) :]) > len(self.ASKED) // 2

    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
    def test_adjusted_logits_are_the_definitions_to_the_last_digits(self, dtype: mx.Dtype) -> None:
        """In float32 whatever the model computes in: a bias of 0.001 counts, too."""
        given_logits = mx.array(random_logits(1)).astype(dtype)
        logits = np.array(given_logits.astype(mx.float32))
        for asked in self.ASKED:
            row = RowSampler(asked, list(self.PROMPT))
            generated: list[int] = []
            for token in (5, 3, 5, 45, 5):
                row.adjust(mx.array([generated[-1]]) if generated else None, given_logits)
                generated.append(token)
            result = np.array(row.adjust(mx.array([generated[-1]]), given_logits))[0]
            expected = self.penalised(logits[0], asked, list(self.PROMPT), generated)
            np.testing.assert_allclose(result, expected, atol=1e-5)

    def test_the_prompts_last_token_is_not_counted_as_generated(self) -> None:
        logits = np.zeros((1, 4), np.float32)
        logits[0, 2] = 0.5
        sampler = batch(replace(GREEDY, presence_penalty=2.0), prompt=[2])
        tokens = mx.array([2], dtype=mx.uint32)
        assert sampler(mx.array(logits), tokens, [True]).tolist() == [2]
        assert sampler(mx.array(logits), tokens, [False]).tolist() == [0]

    def test_a_bias_can_ban_and_force_while_sampling(self) -> None:
        logits = random_logits(100)
        banned = tuple((token, -100.0) for token in range(10, VOCABULARY))
        chosen = draw(batch(*(replace(PLAIN, logit_bias=banned, seed=seed) for seed in range(100))), logits)
        assert max(chosen) < 10
        chosen = draw(batch(*(replace(PLAIN, logit_bias=((17, 100.0),), seed=seed) for seed in range(100))), logits)
        assert set(chosen) == {17}

    def test_prompt_tokens_outside_of_the_models_vocabulary(self) -> None:
        sampler = batch(replace(GREEDY, repetition_penalty=2.0, logit_bias=((4000, 5.0),)), prompt=[4000, 5000])
        logits = random_logits(1)
        assert draw(sampler, logits) == [int(np.argmax(logits))]

    @pytest.mark.parametrize("asked", ASKED)
    def test_memory_stays_flat_over_a_long_row(self, asked: SamplingParameters) -> None:
        vocabulary = 20_000
        sampler = batch(asked, prompt=[1])
        logits = mx.array(random_logits(1, vocabulary))
        tokens = sampler(logits, mx.array([0], dtype=mx.uint32), [True])
        before = 0
        for step in range(60):
            tokens = sampler(logits, tokens, [False])
            mx.eval(tokens)
            before = mx.get_active_memory() if step == 9 else before
        assert mx.get_active_memory() - before < 4 * 4 * vocabulary


class TestSeeds:
    CHOICES = (
        PLAIN,
        GREEDY,
        replace(PLAIN, top_p=0.9),
        replace(PLAIN, top_k=5),
        replace(PLAIN, min_p=0.1),
        replace(PLAIN, temperature=1.7),
        replace(PLAIN, temperature=0.6, top_p=0.95, top_k=20, min_p=0.02),
        replace(PLAIN, presence_penalty=1.0),
        replace(PLAIN, repetition_penalty=1.3, top_p=0.8),
        replace(PLAIN, logit_bias=((4, 3.0),)),
    )
    NUM_STEPS = 12

    def alone(self, asked: SamplingParameters, logits: list[Floats]) -> list[int]:
        sampler = batch(asked, prompt=[1, 2])
        generated: list[int] = []
        for step in logits:
            generated += draw(sampler, step, generated[-1:] or None)
        return generated

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
    def test_a_seeded_row_is_the_same_in_any_company(self, seed: int, dtype: mx.Dtype) -> None:
        """Neighbours of every kind come and go at any step."""
        company = random.Random(seed)
        logits = [random_logits(1, seed=100 * seed + step) for step in range(self.NUM_STEPS)]
        for asked in self.CHOICES:
            own = replace(asked, seed=seed)
            row = RowSampler(own, [1, 2])
            generated: list[int] = []
            for step in logits:
                others = [RowSampler(company.choice(self.CHOICES), [3]) for _ in range(company.randint(0, 4))]
                place = company.randint(0, len(others))
                sampler = BatchSampler([*others[:place], row, *others[place:]])
                rows = random_logits(1 + len(others), seed=company.randrange(1000))
                rows[place] = step
                fed = [generated[-1]] * len(rows) if generated else None
                generated.append(draw(sampler, mx.array(rows).astype(dtype), fed)[place])
            own_logits = [np.array(mx.array(step).astype(dtype).astype(mx.float32)) for step in logits]
            assert generated == self.alone(own, own_logits)

    def test_other_seeds_say_other_things(self) -> None:
        logits = [random_logits(1, seed=step) for step in range(self.NUM_STEPS)]
        assert len({tuple(self.alone(replace(PLAIN, seed=seed), logits)) for seed in range(10)}) == 10
