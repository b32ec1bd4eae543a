"""Text to tokens and back by a loaded model's handler, with no engine in it."""

from pathlib import Path

import pytest
from mlx_lm import load

from app.core.conversation import Conversation, Message, RawPrompt
from app.core.events import Detokenized, Tokenized
from app.core.requests import DetokenizeRequest, GenerationRequest, TokenizeRequest
from app.errors import InvalidRequest
from app.handler.lm.handler import LMHandler
from app.settings import ModelSpec
from tests.fixtures import tiny_lm, tiny_tokenizers
from tests.fixtures.driving import Log
from tests.fixtures.tiny_lm import Loaded

BOS = 0


@pytest.fixture(scope="module")
def handler(llama: Loaded) -> LMHandler:
    spec = ModelSpec.model_validate({"model_path": str(llama.folder), "warmup": False})
    one = LMHandler(llama.folder, spec, Log().emit)
    one.load()
    return one


def test_a_conversation_is_counted_as_it_would_be_generated_from(handler: LMHandler) -> None:
    conversation = Conversation([Message("system", "be brief"), Message("user", "hello")])
    tokens = handler.prepare(GenerationRequest(conversation)).prompt
    assert handler.prepare(TokenizeRequest(conversation)) == Tokenized(tokens)


def test_a_conversation_that_is_not_to_be_answered(handler: LMHandler) -> None:
    messages = [Message("user", "hello"), Message("assistant", "hi")]
    opened, closed = (
        handler.prepare(TokenizeRequest(Conversation(messages, opens_answer=opens))).tokens for opens in (True, False)
    )
    assert opened[: len(closed)] == closed
    assert handler.prepare(DetokenizeRequest(opened[len(closed) :])).text == "<|im_start|>assistant\n"


def test_there_is_no_limit_and_nothing_is_too_little(handler: LMHandler) -> None:
    assert len(handler.prepare(TokenizeRequest(RawPrompt("word " * 3000))).tokens) > 3000
    assert handler.prepare(TokenizeRequest(RawPrompt(""))) == Tokenized([])
    assert handler.prepare(DetokenizeRequest([])) == Detokenized("")


@pytest.mark.parametrize("text", ["hello there", " two  spaces ", "El ni\u00f1o \U0001f600\n", "<|im_start|>user"])
def test_there_and_back_again(handler: LMHandler, text: str) -> None:
    tokens = handler.prepare(TokenizeRequest(RawPrompt(text))).tokens
    assert handler.prepare(DetokenizeRequest(tokens)).text == text


def test_pieces_are_as_the_vocabulary_has_them(handler: LMHandler) -> None:
    answer = handler.prepare(TokenizeRequest(RawPrompt("the quick"), has_pieces=True))
    assert answer.pieces == ["the", "\u0120quick"]
    assert len(answer.tokens) == 2
    # Token ids are taken as they are.
    assert handler.prepare(TokenizeRequest(RawPrompt(answer.tokens))) == Tokenized(answer.tokens)


def test_tokens_that_the_model_does_not_have(handler: LMHandler) -> None:
    for token in (-1, 10**6):
        with pytest.raises(InvalidRequest, match=f"token {token},") as refusal:
            handler.prepare(DetokenizeRequest([3, token]))
        assert refusal.value.param == "tokens"


def test_a_text_begins_as_the_tokenizer_has_it_begin(tmp_path: Path) -> None:
    folder = tiny_lm.llama(tmp_path / "model")
    tiny_tokenizers.begin_texts(folder)
    spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False})
    one = LMHandler(folder, spec, Log().emit)
    one.load()
    plain = load(str(folder))[1].encode("hello", add_special_tokens=False)
    for adds, expected in ((True, [BOS, *plain]), (False, plain)):
        prompt = RawPrompt("hello", adds_special_tokens=adds)
        assert one.prepare(TokenizeRequest(prompt)).tokens == expected
        assert one.prepare(GenerationRequest(prompt)).prompt == expected
    # A conversation's template begins it itself.
    assert BOS not in one.prepare(TokenizeRequest(Conversation([Message("user", "hello")]))).tokens
    # Nothing but the first token is a prompt, too.
    assert one.prepare(GenerationRequest(RawPrompt(""))).prompt == [BOS]
