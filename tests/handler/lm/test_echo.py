"""A prompt said again before its answers, with the log-probabilities that the model gives it."""

import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from app.core.events import ChoiceEnded, EchoDelta, Event, PromptToken
from app.handler.lm.detokenizer import detokenizer_factory
from app.handler.lm.prompts.prompt import PreparedGeneration
from tests.fixtures.engine_bench import GREEDY, Bench, bench
from tests.fixtures.tiny_lm import Loaded


def tokens_of(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(3, 300), k=count)


def ask(test: Bench, request_id: int, prompt: list[int], **fields: object) -> None:
    own = {"echo": "said again", "top_logprobs": 2}
    test.engine.add(request_id, replace(PreparedGeneration(prompt, 4, GREEDY), **own | fields))  # type: ignore[arg-type]


def echoes(events: list[Event], choice: int = 0) -> list[EchoDelta]:
    return [event for event in events if isinstance(event, EchoDelta) and event.choice == choice]


def told(test: Bench, request_id: int, choice: int = 0) -> list[PromptToken]:
    pieces = echoes(test.log.events[request_id], choice)
    return [token for piece in pieces for token in piece.logprobs or []]


def check(test: Bench, loaded: Loaded, request_id: int, prompt: list[int], num_top: int, choice: int = 0) -> None:
    """Against one forward pass of the whole prompt, in float64."""
    logits = np.array(loaded.model(mx.array([prompt]))[0], dtype=np.float64)[:-1]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    name = detokenizer_factory(loaded.tokenizer._tokenizer)().bytes_of
    first, *others = told(test, request_id, choice)
    assert first == PromptToken(name(prompt[0]), None, [])
    assert [token.token for token in others] == [name(token) for token in prompt[1:]]
    for token, target, row in zip(others, prompt[1:], expected, strict=True):
        assert token.logprob == pytest.approx(row[target], abs=1e-4)
        best = np.argsort(-row)[:num_top]
        assert [one.token for one in token.top] == [name(int(one)) for one in best]
        assert [one.logprob for one in token.top] == pytest.approx(row[best], abs=1e-4)


def test_what_is_told_of_a_prompt_is_the_models_own(batched: Loaded) -> None:
    """Longer than a pass, as long as one, and so short that several share one, of which one asks for nothing."""
    test = bench(batched)
    prompts = [tokens_of(seed, count) for seed, count in enumerate([150, 33, 7, 5, 2, 9])]
    for request_id, prompt in enumerate(prompts[:-1]):
        ask(test, request_id, prompt, top_logprobs=request_id)
    ask(test, 9, prompts[-1], echo=None)
    test.run()
    for request_id, prompt in enumerate(prompts[:-1]):
        check(test, batched, request_id, prompt, request_id)
        assert test.log.completion(request_id).text == test.reference(prompt, 4)
    assert told(test, 9) == []
    assert test.log.completion(9).text == test.reference(prompts[-1], 4)


def test_a_prompt_that_is_kept_is_computed_again(batched: Loaded) -> None:
    test = bench(batched)
    prompt = tokens_of(1, 80)
    for request_id in range(3):
        ask(test, request_id, prompt, echo="again" if request_id != 2 else None)
        test.run()
    for request_id in range(2):
        check(test, batched, request_id, prompt, 2)
        assert test.log.completion(request_id).usage.cached_tokens == 0
    # What was computed for it serves others all the same.
    assert test.log.completion(2).usage.cached_tokens == 79


def test_the_logits_of_a_pass_are_bounded(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    test = bench(llama)
    monkeypatch.setattr("app.handler.lm.prefill._MAX_LOGITS_BYTES", 4 * 1024 * 10)
    prompt = tokens_of(1, 45)
    ask(test, 0, prompt)
    ask(test, 1, prompt, echo=None)
    test.run()
    pieces = [len(piece.logprobs or []) for piece in echoes(test.log.events[0])]
    assert pieces == [1, 10, 10, 10, 10, 4]
    check(test, llama, 0, prompt, 2)


def test_every_choice_begins_with_the_prompt(llama: Loaded) -> None:
    test = bench(llama)
    prompt = tokens_of(1, 40)
    ask(test, 0, prompt, num_choices=3)
    test.run()
    for choice in range(3):
        assert "".join(piece.text for piece in echoes(test.log.events[0], choice)) == "said again"
        check(test, llama, 0, prompt, 2, choice)


def test_without_logprobs_only_the_text_is_told(llama: Loaded) -> None:
    test = bench(llama)
    ask(test, 0, tokens_of(1, 40), top_logprobs=None)
    test.run()
    assert echoes(test.log.events[0]) == [EchoDelta("said again")]


@pytest.mark.parametrize("count", [1, 2, 70])
def test_no_answer_is_wanted(batched: Loaded, count: int) -> None:
    test = bench(batched)
    prompt = tokens_of(1, count)
    ask(test, 0, prompt, max_tokens=0, num_choices=2)
    ask(test, 1, tokens_of(2, 5), echo=None)
    test.run()
    whole = test.log.whole(0)
    assert [(choice.text, choice.reason) for choice in whole.choices] == [("", "length")] * 2
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (count, 0)
    check(test, batched, 0, prompt, 2)
    assert test.log.completion(1).text == test.reference(tokens_of(2, 5), 4)


def test_who_comes_back_after_a_lack_of_memory_does_not_repeat_itself(llama: Loaded) -> None:
    """Each token takes 1 KiB in every row: both start, and one has to leave."""
    test = bench(llama, kv_bytes=400 << 10)
    prompts = [tokens_of(1, 100), tokens_of(2, 100)]
    for request_id, prompt in enumerate(prompts):
        ask(test, request_id, prompt, max_tokens=150)
    test.turn_until(lambda: any(prompt.is_back for prompt in test.engine._line))
    test.run()
    for request_id, prompt in enumerate(prompts):
        check(test, llama, request_id, prompt, 2)
        assert test.log.completion(request_id).text == test.reference(prompt, 150)


def test_a_cancelled_echo_leaves_nothing(llama: Loaded) -> None:
    test = bench(llama)
    ask(test, 0, tokens_of(1, 400))
    ask(test, 1, tokens_of(2, 9))
    test.engine.turn()
    test.engine.cancel(0)
    test.run()
    assert not any(isinstance(event, ChoiceEnded) for event in test.log.events[0])
    check(test, llama, 1, tokens_of(2, 9), 2)
