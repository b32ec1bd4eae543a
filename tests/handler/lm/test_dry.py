import random
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.dry import DryPenalty
from app.handler.lm.sampling.parameters import Dry
from tests.fixtures.engine_bench import GREEDY, bench
from tests.fixtures.tiny_lm import Loaded

PLAIN = Dry(0.8, breakers=())


def spell(token: int) -> bytes:
    """Tokens 0 to 25 are letters, the others two of them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (letters[token % 26] * (1 + token // 26)).encode()


def penalties(asked: Dry, context: Sequence[int], num_prompt: int) -> dict[int, float]:
    dry = DryPenalty(asked, list(context[:num_prompt]), spell)
    for token in context[num_prompt:]:
        dry.push(token)
    return dry.penalties()


def expected(asked: Dry, context: Sequence[int], is_break: Sequence[bool], *, exempt: set[int]) -> dict[int, float]:
    """The definition: for each token, the longest end of the context that it followed before."""
    window = list(context if asked.last_n < 0 else context[max(0, len(context) - asked.last_n) :])
    breaks = list(is_break)[len(context) - len(window) :]
    limit = next((count for count in range(len(window)) if breaks[-1 - count]), len(window))
    longest: dict[int, int] = {}
    for place in range(1, len(window)):
        length = 0
        while length < min(place, limit) and window[place - 1 - length] == window[-1 - length]:
            length += 1
        longest[window[place]] = max(longest.get(window[place], 0), length)
    return {
        token: asked.multiplier * asked.base ** (length - asked.allowed_length)
        for token, length in longest.items()
        if length >= asked.allowed_length and token not in exempt
    }


class TestPenalties:
    def test_the_example_of_llama_cpp(self) -> None:
        """Of a b c c b c y a b c: c would follow 3 tokens again, y 2, b only 1."""
        a, b, c, y = 0, 1, 2, 24
        context = [a, b, c, c, b, c, y, a, b, c]
        for num_prompt in range(1, len(context) + 1):
            assert penalties(PLAIN, context, num_prompt) == pytest.approx({c: 0.8 * 1.75, y: 0.8})

    @pytest.mark.parametrize("seed", range(60))
    def test_any_context(self, seed: int) -> None:
        draw = random.Random(seed)
        context = draw.choices(range(draw.choice([2, 3, 6])), k=draw.randint(1, 40))
        # A token that is a breaker, and one that begins with what is a breaker only after an `a`.
        breakers = draw.choice([(), ("b",), ("ab",), ("a", "b")])
        asked = Dry(
            draw.uniform(0.1, 3), draw.uniform(1, 3), draw.randint(1, 4), breakers, draw.choice([-1, 5, 12, 99])
        )
        text = b""
        is_break: list[bool] = []
        for token in context:
            text += spell(token)
            is_break.append(any(text.endswith(breaker.encode()) for breaker in breakers))
        exempt = {token for token in range(6) if spell(token).decode() in breakers}
        wanted = expected(asked, context, is_break, exempt=exempt)
        for num_prompt in {1, len(context) // 2, len(context)} - {0}:
            assert penalties(asked, context, num_prompt) == pytest.approx(wanted)

    def test_a_breaker_within_a_longer_token_counts(self) -> None:
        # Token 27 is `bb`.
        context = [0, 27, 2, 0, 27, 2]
        assert penalties(replace(PLAIN, breakers=("b",)), [*context, 0], 4) == {}
        assert 0 in penalties(PLAIN, context, 4)

    def test_a_breaker_of_many_tokens_in_a_long_prompt(self) -> None:
        asked = Dry(1.0, allowed_length=1, breakers=("abc",))
        for num_after in (0, 1, 255, 256, 257, 300):
            context = [7] * 400 + [0, 1, 2] + [7] * num_after
            found = penalties(asked, context, len(context))
            assert found == ({} if num_after == 0 else found)
            assert (7 in found) == (num_after > 0)

    def test_a_loop_is_as_good_as_forbidden_and_no_more(self) -> None:
        for num_prompt in (1, 5000):
            found = penalties(replace(PLAIN, base=10.0, multiplier=100.0), [3] * 5000, num_prompt)
            assert found == {3: 1e4}


# Answers of six different tokens repeat themselves soon.
FEW = range(300, 306)
OF_FEW = replace(GREEDY, logit_bias=tuple((token, 100.0) for token in FEW))


def reference(loaded: Loaded, asked: Dry | None, prompt: list[int], num_tokens: int) -> str:
    """Greedy decoding with the definition's penalties, one whole forward pass after the other."""
    spelled = bench(loaded).engine._answering._new_detokenizer().bytes_of
    breakers = [breaker.encode() for breaker in asked.breakers] if asked else []
    context = list(prompt)
    for _ in range(num_tokens):
        logits = np.array(loaded.model(mx.array([context]))[0, -1])
        logits[list(FEW)] += 100
        is_break = [any(breaker in spelled(token) for breaker in breakers) for token in context]
        exempt = {token for token in set(context) if any(breaker in spelled(token) for breaker in breakers)}
        for token, penalty in expected(asked, context, is_break, exempt=exempt).items() if asked else ():
            logits[token] -= penalty
        context.append(int(np.argmax(logits)))
    return loaded.decode(context[len(prompt) :])


@pytest.mark.parametrize("asked", [Dry(9.0, breakers=()), Dry(9.0, 1.5, 1, ("g", "s")), Dry(9.0, 2.0, 1, (), 9)])
def test_each_token_is_penalised_for_what_came_just_before_it(llama: Loaded, asked: Dry) -> None:
    """Beside plain rows that come and go, so that the newest token is always the row's own."""
    draw = random.Random(3)
    prompt = draw.choices(FEW, k=40)
    test = bench(llama)
    test.add(0, prompt[:9], 12)
    for _ in range(4):
        test.engine.turn()
    test.add_asking(1, PreparedGeneration(prompt, 30, replace(OF_FEW, dry=asked)))
    test.add(2, prompt[5:], 40)
    test.run()
    wanted = reference(llama, asked, prompt, 30)
    assert test.log.completion(1).text == wanted
    assert wanted != reference(llama, None, prompt, 30)
    assert test.log.completion(0).text == test.reference(prompt[:9], 12)
    assert test.log.completion(2).text == test.reference(prompt[5:], 40)
