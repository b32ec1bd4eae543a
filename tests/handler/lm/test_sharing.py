"""What requests share: prefixes, one prefill for several choices; and what each keeps to itself: log-probabilities."""

import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from app.core.events import Finished, Started
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.sampling import SamplingParameters
from tests.fixtures.engine_bench import GREEDY, Bench, bench
from tests.fixtures.tiny_lm import Loaded

SEEDED = SamplingParameters(temperature=1.0, seed=5)


def tokens_of(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(3, 300), k=count)


def ask(test: Bench, request_id: int, prompt: list[int], **fields: object) -> None:
    test.engine.add(request_id, replace(PreparedGeneration(prompt, 12, GREEDY), **fields))


def cached(test: Bench, request_id: int) -> int:
    """What the first and the last event say, which has to be the same."""
    started, finished = test.log.events[request_id][0], test.log.events[request_id][-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert started.cached_tokens == finished.usage.cached_tokens
    return started.cached_tokens


def test_the_second_turn_of_a_conversation_is_computed_from_where_the_first_ended(batched: Loaded) -> None:
    test = bench(batched)
    first = tokens_of(1, 100)
    ask(test, 0, first)
    test.run()
    answer = batched.greedy(first, 12)
    second = first + answer + tokens_of(2, 20)
    ask(test, 1, second)
    test.run()
    assert cached(test, 0) == 0
    assert cached(test, 1) == 112
    assert test.log.completion(1).text == test.reference(second, 12)


def test_an_answer_that_the_template_changes_is_computed_again_but_not_the_prompt(batched: Loaded) -> None:
    test = bench(batched)
    first = tokens_of(1, 100)
    ask(test, 0, first)
    test.run()
    second = first + tokens_of(3, 30)
    ask(test, 1, second)
    test.run()
    # All of the first prompt but the token that was fed in a decode step, and that one too where caches can be cut.
    assert cached(test, 1) in (99, 100)
    assert test.log.completion(1).text == test.reference(second, 12)


def test_a_cancelled_row_leaves_what_it_has_computed(batched: Loaded) -> None:
    test = bench(batched)
    prompt = tokens_of(1, 400)
    ask(test, 0, prompt)
    for _ in range(5):
        test.engine.turn()
    test.engine.cancel(0)
    ask(test, 1, prompt)
    test.run()
    # Thirteen passes of at most 32 tokens, and about as long each.
    assert cached(test, 1) >= 5 * 30
    assert test.log.completion(1).text == test.reference(prompt, 12)


def test_messages_end_at_checkpoints(model_folder: object) -> None:
    from tests.fixtures.tiny_lm import load_folder

    loaded = load_folder(model_folder("lfm2"))  # type: ignore[operator]
    test = bench(loaded)
    system, user, other = tokens_of(1, 260), tokens_of(2, 40), tokens_of(3, 40)
    ask(test, 0, system + user, message_ends=(260, 300))
    test.run()
    ask(test, 1, system + other, message_ends=(260, 300))
    test.run()
    assert cached(test, 1) == 260
    assert test.log.completion(1).text == test.reference(system + other, 12)


def test_sixteen_with_a_shared_prefix_are_what_each_is_alone(batched: Loaded) -> None:
    test = bench(batched)
    shared = tokens_of(1, 150)
    prompts = [shared + tokens_of(seed, 5 + seed) for seed in range(16)]
    for request_id, prompt in enumerate(prompts):
        ask(test, request_id, prompt)
    test.run()
    for request_id, prompt in enumerate(prompts):
        assert test.log.completion(request_id).text == test.reference(prompt, 12)


def test_choices_share_a_prefill_and_differ(batched: Loaded) -> None:
    test = bench(batched, cache_bytes=0)
    prompt = tokens_of(1, 60)
    ask(test, 0, prompt, num_choices=3, sampling=SEEDED)
    ask(test, 1, prompt, sampling=SEEDED)
    ask(test, 2, tokens_of(2, 9), num_choices=2)
    test.run()
    whole = test.log.whole(0)
    assert whole.usage.prompt_tokens == 60
    assert whole.usage.completion_tokens == 36
    texts = [choice.text for choice in whole.choices]
    assert len(set(texts)) == 3
    assert texts[0] == test.log.completion(1).text
    assert [choice.text for choice in test.log.whole(2).choices] == [test.reference(tokens_of(2, 9), 12)] * 2


def test_seeded_choices_repeat(llama: Loaded) -> None:
    texts: list[list[str]] = []
    for _ in range(2):
        test = bench(llama)
        ask(test, 9, tokens_of(7, 30))
        ask(test, 0, tokens_of(1, 60), num_choices=3, sampling=SEEDED)
        test.run()
        texts.append([choice.text for choice in test.log.whole(0).choices])
    assert texts[0] == texts[1]


def test_a_request_with_choices_that_is_cancelled_leaves_nothing(llama: Loaded) -> None:
    test = bench(llama)
    ask(test, 0, tokens_of(1, 60), num_choices=3)
    ask(test, 1, tokens_of(2, 60))
    for _ in range(6):
        test.engine.turn()
    test.engine.cancel(0)
    test.run()
    assert test.log.completion(1).text == test.reference(tokens_of(2, 60), 12)


def reference_logprobs(loaded: Loaded, prompt: list[int], answer: list[int]) -> np.ndarray:
    logits = np.array(loaded.model(mx.array([prompt + answer]))[0], dtype=np.float64)[len(prompt) - 1 : -1]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_logprobs_are_the_models_own(llama: Loaded) -> None:
    test = bench(llama)
    prompt = tokens_of(1, 40)
    ask(test, 0, tokens_of(5, 20), sampling=replace(SEEDED, repetition_penalty=1.5))
    ask(test, 1, prompt, top_logprobs=5)
    ask(test, 2, prompt, top_logprobs=0, max_tokens=3)
    test.run()
    (choice,) = test.log.whole(1).choices
    answer = llama.greedy(prompt, 12)
    expected = reference_logprobs(llama, prompt, answer)
    assert choice.logprobs is not None
    assert len(choice.logprobs) == 12
    assert b"".join(one.token for one in choice.logprobs).decode(errors="replace") == choice.text
    for one, row, token in zip(choice.logprobs, expected, answer, strict=True):
        assert one.logprob == pytest.approx(row[token], abs=1e-3)
        assert [top.logprob for top in one.top] == pytest.approx(sorted(row)[-5:][::-1], abs=1e-3)
        assert one.top[0].token == one.token
    (few,) = test.log.whole(2).choices
    assert [one.top for one in few.logprobs or []] == [[], [], []]
    assert test.log.completion(0).choice.logprobs is None


def test_an_answer_without_text_has_no_logprobs_but_a_list_of_them(llama: Loaded) -> None:
    prompt = tokens_of(1, 40)
    stop = llama.decode(llama.greedy(prompt, 1))
    test = bench(llama)
    ask(test, 0, prompt, top_logprobs=1, stop=(stop,))
    test.run()
    choice = test.log.completion(0).choice
    assert (choice.text, choice.logprobs) == ("", [])


def test_logprobs_end_where_a_stop_string_begins(llama: Loaded) -> None:
    prompt = tokens_of(1, 40)
    text = llama.decode(llama.greedy(prompt, 12))
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    test = bench(llama)
    ask(test, 0, prompt, top_logprobs=1, stop=(stop,))
    test.run()
    done = test.log.completion(0)
    assert done.stop_sequence == stop
    spelled = b"".join(one.token for one in done.choice.logprobs or []).decode(errors="replace")
    assert spelled.startswith(done.text)
    assert len(spelled) < len(text)
