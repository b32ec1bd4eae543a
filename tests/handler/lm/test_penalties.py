from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from app.handler.lm.sampling.parameters import SamplingParameters
from app.handler.lm.sampling.sampling import RowSampler
from tests.fixtures.sampler_bench import GREEDY, PLAIN, VOCABULARY, Floats, batch, draw, random_logits


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
                row.penalties.adjust(mx.array([generated[-1]]) if generated else None, given_logits)
                generated.append(token)
            result = np.array(row.penalties.adjust(mx.array([generated[-1]]), given_logits))[0]
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
