"""A text that goes on: what the answer adds to its prompt is what the tokens of both together add to it."""

from pathlib import Path

import pytest

from app.core.conversation import RawPrompt
from app.core.events import EchoDelta
from app.core.requests import GenerationRequest, Sampling
from app.errors import ContextLengthExceeded, InvalidRequest
from app.handler.lm.detokenizer import detokenizer_factory
from app.handler.lm.handler import LMHandler
from app.settings import ModelSpec
from tests.fixtures import tiny_lm
from tests.fixtures.driving import Log, run
from tests.fixtures.tiny_lm import Loaded
from tests.fixtures.tiny_tokenizers import Style

NUM_TOKENS = 25
GREEDY = Sampling(temperature=0.0, logit_bias={2: -100.0})


def opened(folder: Path, log: Log) -> LMHandler:
    one = LMHandler(folder, ModelSpec.model_validate({"model_path": str(folder), "warmup": False}), log.emit)
    one.load()
    return one


def answered(one: LMHandler, log: Log, prompt: RawPrompt, max_tokens: int = NUM_TOKENS) -> str:
    request_id = len(log.events)
    one.submit(request_id, one.prepare(GenerationRequest(prompt, GREEDY, max_tokens)))
    run(one.turn)
    return log.completion(request_id).text


@pytest.mark.parametrize("style", ["byte-level", "metaspace", "spm", "spm-no-strip"])
def test_prompt_and_answer_are_one_text(tmp_path: Path, style: Style) -> None:
    folder = tiny_lm.llama(tmp_path / "model", style=style)
    loaded, log = tiny_lm.load_folder(folder), Log()
    one = opened(folder, log)
    for text in (" the quick", " hello", " two words", "x"):
        prompt = one.prepare(GenerationRequest(RawPrompt(text))).prompt
        tokens = loaded.greedy(prompt, NUM_TOKENS)
        assert 2 not in tokens
        expected = loaded.decode(prompt + tokens).removeprefix(loaded.decode(prompt))
        assert answered(one, log, RawPrompt(text)) == expected


def test_a_prompt_that_ends_inside_a_character(llama: Loaded) -> None:
    log = Log()
    one = opened(llama.folder, log)
    first, *rest = (_byte_token(llama, byte) for byte in "\u263a".encode())
    prompt = [*one.prepare(GenerationRequest(RawPrompt("a"))).prompt, first]
    request = GenerationRequest(RawPrompt(prompt), Sampling(temperature=0.0, logit_bias={rest[0]: 100.0}), 1)
    one.submit(0, one.prepare(request))
    one.submit(
        1, one.prepare(GenerationRequest(RawPrompt([*prompt, rest[0]]), Sampling(logit_bias={rest[1]: 100.0}), 1))
    )
    run(one.turn)
    # Two bytes of three are no character; the third makes it one.
    assert log.completion(0).text == "\ufffd"
    assert log.completion(1).text == "\u263a"


def _byte_token(loaded: Loaded, byte: int) -> int:
    name = detokenizer_factory(loaded.tokenizer._tokenizer)().bytes_of
    return next(token for token in range(1000) if name(token) == bytes([byte]))


def test_an_echo_is_the_text_that_was_given_or_that_of_the_tokens(llama: Loaded) -> None:
    log = Log()
    one = opened(llama.folder, log)
    text = "the  qu\u00efck<|im_start|> "
    tokens = one.prepare(GenerationRequest(RawPrompt(text))).prompt
    for request_id, given in enumerate((text, tokens)):
        prompt = RawPrompt(given, is_echoed=True)
        one.submit(request_id, one.prepare(GenerationRequest(prompt, GREEDY, 0)))
        run(one.turn)
        assert [event for event in log.events[request_id] if isinstance(event, EchoDelta)] == [EchoDelta(text)]


def test_a_prompt_may_fill_the_context_where_no_answer_is_wanted(llama: Loaded) -> None:
    log = Log()
    one = opened(llama.folder, log)
    assert answered(one, log, RawPrompt([5] * 512, is_echoed=True), 0) == ""
    for num_tokens, max_tokens in ((512, 1), (513, 0)):
        with pytest.raises(ContextLengthExceeded) as refusal:
            one.prepare(GenerationRequest(RawPrompt([5] * num_tokens), max_tokens=max_tokens))
        assert refusal.value.param == "prompt"


def test_a_gap_that_is_too_large_or_cannot_be_filled(llama: Loaded) -> None:
    one = opened(llama.folder, Log())
    with pytest.raises(ContextLengthExceeded, match="at least"):
        one.prepare(GenerationRequest(RawPrompt("a", "some words, no end of them " * 1_500_000)))
    with pytest.raises(InvalidRequest) as refusal:
        one.prepare(GenerationRequest(RawPrompt("a", "b")))
    assert refusal.value.param == "suffix"
