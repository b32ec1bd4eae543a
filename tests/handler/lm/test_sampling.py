import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.handler.lm.sampling.parameters import SamplingParameters
from app.handler.lm.sampling.sampling import BatchSampler, RowSampler
from tests.fixtures.sampler_bench import GREEDY, PLAIN, VOCABULARY, Floats, batch, draw, kept_set, random_logits


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
        assert row.next_numbers().bits == 2**32 - 1
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
            assert kept_set(sampler, np.repeat(logits[None], 1 + len(others), axis=0))[0] == expected

    def test_a_share_that_is_reached_exactly_is_enough(self) -> None:
        even = np.zeros((1, 4), np.float32)
        assert kept_set(batch(replace(PLAIN, top_p=0.5)), even) == [{0, 1}]
        assert kept_set(batch(replace(PLAIN, top_p=0.75, top_k=2)), even) == [{0, 1}]
        assert kept_set(batch(replace(PLAIN, top_p=0.5, top_k=2)), even) == [{0}]

    def test_k_larger_than_the_vocabulary_is_no_limit(self) -> None:
        logits = random_logits(1)
        assert kept_set(batch(replace(PLAIN, top_k=10**6)), logits) == [set(range(VOCABULARY))]

    def test_top_p_of_one_keeps_the_unlikeliest_token_beside_a_row_with_a_limit(self) -> None:
        logits = random_logits(2, 20_000)
        sampler = batch(PLAIN, replace(PLAIN, top_p=0.5))
        assert len(kept_set(sampler, logits)[0]) == 20_000

    def test_a_token_that_is_impossible_stays_so(self) -> None:
        logits = np.full((200, VOCABULARY), -np.inf, np.float32)
        logits[:, [3, 40]] = 0.0
        for asked in (PLAIN, replace(PLAIN, top_k=10), replace(PLAIN, top_p=0.9), replace(PLAIN, min_p=0.1)):
            chosen = draw(batch(*(replace(asked, seed=seed) for seed in range(200))), logits)
            assert set(chosen) == {3, 40}


class TestTypical:
    def test_the_likeliest_token_of_many_is_not_typical(self) -> None:
        logits = np.log(np.array([[0.4, *[0.02] * 30]], dtype=np.float32))
        assert kept_set(batch(replace(PLAIN, typical_p=0.5)), logits) == [set(range(1, 26))]
        assert kept_set(batch(replace(PLAIN, typical_p=1.0)), logits) == [set(range(31))]

    @pytest.mark.parametrize("top_k", [3, 300])
    def test_takes_what_the_other_limits_have_left_for_the_whole(self, top_k: int) -> None:
        logits = np.log(np.array([[0.3, 0.15, 0.1, 0.05, *[0.01] * 40]], dtype=np.float32))
        # Of 0.3, 0.15 and 0.1 the second is closest to what is to be expected.
        asked = replace(PLAIN, top_k=top_k, top_p=1.0 if top_k == 3 else 0.55, typical_p=0.01)
        assert kept_set(batch(asked), logits) == [{1}]


class TestXtc:
    LOGITS = np.log(np.array([[0.4, 0.05, 0.3, 0.15, 0.1]], dtype=np.float32))

    def drawn(self, asked: SamplingParameters, count: int = 400) -> list[int]:
        rows = (replace(asked, seed=seed) for seed in range(count))
        return draw(batch(*rows), np.repeat(self.LOGITS, count, axis=0))

    @pytest.mark.parametrize("top_k", [0, 5])
    def test_always_and_never(self, top_k: int) -> None:
        asked = replace(PLAIN, top_k=top_k, xtc_threshold=0.12)
        assert set(self.drawn(replace(asked, xtc_probability=1.0))) == {1, 3, 4}
        assert set(self.drawn(replace(asked, xtc_probability=0.0))) == {0, 1, 2, 3, 4}
        assert self.drawn(asked) == self.drawn(replace(asked, xtc_probability=1e-12))

    @pytest.mark.parametrize("top_k", [0, 5])
    def test_the_tokens_that_are_spared(self, top_k: int) -> None:
        asked = replace(PLAIN, top_k=top_k, xtc_threshold=0.12, xtc_probability=1.0)
        assert set(self.drawn(replace(asked, xtc_spared=(0, 4000)))) == {0, 1, 3, 4}

    def test_in_so_many_cases_as_it_says(self) -> None:
        chosen = self.drawn(replace(PLAIN, xtc_threshold=0.12, xtc_probability=0.5), 4000)
        # The likeliest two have 0.7 where it does not apply. Ten standard deviations.
        assert abs(sum(token in (0, 2) for token in chosen) - 1400) < 300

    def test_of_what_the_other_limits_have_left(self) -> None:
        # 0.4, 0.3 and 0.15 of 0.85.
        asked = replace(PLAIN, top_k=3, xtc_probability=1.0)
        assert set(self.drawn(replace(asked, xtc_threshold=0.16))) == {3}
        assert set(self.drawn(replace(asked, xtc_threshold=0.2))) == {2, 3}

    def test_a_greedy_row_has_none(self) -> None:
        assert set(self.drawn(replace(GREEDY, xtc_probability=1.0, xtc_threshold=0.12))) == {0}

    def test_a_row_that_joins_again_draws_with_the_same_numbers(self) -> None:
        row = RowSampler(replace(PLAIN, seed=4, xtc_probability=0.5), [])
        other = RowSampler(replace(PLAIN, seed=4, xtc_probability=0.5), [])
        row.step_back()
        seen = []
        for step in range(50):
            numbers = row.next_numbers()
            assert numbers == other.next_numbers()
            seen.append(numbers.does_xtc)
            if step % 3 == 0:
                row.step_back()
                assert row.next_numbers() == numbers
        assert 5 < sum(seen) < 45


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
        replace(PLAIN, typical_p=0.6),
        replace(PLAIN, top_k=30, typical_p=0.8, xtc_probability=0.5, xtc_threshold=0.05, xtc_spared=(3,)),
        replace(PLAIN, top_p=0.9, xtc_probability=0.9, xtc_threshold=0.02),
        replace(PLAIN, top_k=200, top_p=0.9),
        replace(PLAIN, presence_penalty=0.5, typical_p=0.9, xtc_probability=0.5),
    )
    NUM_STEPS = 12

    def alone(self, asked: SamplingParameters, logits: list[Floats] | list[mx.array]) -> list[int]:
        sampler = batch(asked, prompt=[1, 2])
        generated: list[int] = []
        for step in logits:
            generated += draw(sampler, step, generated[-1:] or None)
        return generated

    @pytest.mark.parametrize(("seed", "vocabulary"), [*((seed, VOCABULARY) for seed in range(6)), (6, 5000), (7, 5000)])
    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
    def test_a_seeded_row_is_the_same_in_any_company(self, seed: int, vocabulary: int, dtype: mx.Dtype) -> None:
        """Neighbours of every kind come and go at any step."""
        company = random.Random(seed)
        logits = [random_logits(1, vocabulary, seed=100 * seed + step) for step in range(self.NUM_STEPS)]
        for asked in self.CHOICES:
            own = replace(asked, seed=seed)
            row = RowSampler(own, [1, 2])
            generated: list[int] = []
            for step in logits:
                others = [RowSampler(company.choice(self.CHOICES), [3]) for _ in range(company.randint(0, 4))]
                place = company.randint(0, len(others))
                sampler = BatchSampler([*others[:place], row, *others[place:]])
                rows = random_logits(1 + len(others), vocabulary, seed=company.randrange(1000))
                rows[place] = step
                fed = [generated[-1]] * len(rows) if generated else None
                generated.append(draw(sampler, mx.array(rows).astype(dtype), fed)[place])
            assert generated == self.alone(own, [mx.array(step).astype(dtype) for step in logits])

    def test_other_seeds_say_other_things(self) -> None:
        logits = [random_logits(1, seed=step) for step in range(self.NUM_STEPS)]
        assert len({tuple(self.alone(replace(PLAIN, seed=seed), logits)) for seed in range(10)}) == 10
