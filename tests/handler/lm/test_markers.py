"""Markers are found wherever they are, however the text is cut."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from app.handler.lm.guides.markers import Marker
from app.handler.lm.guides.masks import tokens_in
from app.handler.lm.guides.vocabulary import Vocabulary
from tests.fixtures import tiny_tokenizers

TEXTS = ("</r>", "aab", "abab", "x", "<|a|><|b|>", "é☃é")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    backend = tiny_tokenizers.build("byte-level")
    backend.add_tokens([">{", ">\n", "r>", "</r>\n\n", "a</r>b", ">>"])
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), 1061, (2,))


def cut(text: bytes, draw: random.Random) -> list[bytes]:
    places = sorted(draw.sample(range(1, len(text)), k=min(len(text) - 1, draw.randint(0, 8)))) if len(text) > 1 else []
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_found_where_it_is_first(vocabulary: Vocabulary, text: str) -> None:
    marker, draw, num_found = Marker(text, vocabulary), random.Random(text), 0
    for _ in range(600):
        whole = "".join(
            draw.choices([*text, text, text[: draw.randint(0, len(text))], "a", "> "], k=draw.randint(1, 9))
        )
        seen, consumed, rest = 0, b"", None
        for piece in cut(whole.encode(), draw):
            consumed += piece
            seen, rest = marker.find(seen, 7, piece)
            if rest is not None:
                break
        end = whole.encode().find(text.encode()) + len(text.encode())
        if text not in whole:
            assert rest is None
            assert all(
                not whole.encode().endswith(text.encode()[:size]) for size in range(seen + 1, len(text.encode()))
            )
            assert whole.encode().endswith(text.encode()[:seen])
        else:
            assert rest is not None
            assert consumed[: len(consumed) - len(rest)] == whole.encode()[:end]
            num_found += 1
    assert 50 < num_found < 600


@pytest.mark.parametrize("text", TEXTS)
def test_a_beginning_goes_on_with_what_it_may(vocabulary: Vocabulary, text: str) -> None:
    """Every way through the masks spells the marker, and every token that does is in them."""
    marker, draw = Marker(text, vocabulary), random.Random(text)
    masks = [set(tokens_in(words).tolist()) for words in marker.beginnings(vocabulary)]
    for _ in range(30):
        seen, spelled = 0, b""
        while True:
            token = draw.choice(sorted(masks[seen]))
            spelled += vocabulary.spellings[token]
            begun = marker.begin(seen, token, vocabulary.spellings[token])
            assert begun is not None
            seen, rest = begun
            if rest is not None:
                break
        assert spelled == text.encode() + rest
    for seen, tokens in enumerate(masks):
        for token, spelling in enumerate(vocabulary.spellings):
            whole = text.encode()[:seen] + spelling
            is_possible = whole.startswith(text.encode()) or text.encode().startswith(whole)
            assert (token in tokens) == (bool(spelling) and is_possible)


def test_what_may_not_follow_is_ruled_out(vocabulary: Vocabulary) -> None:
    marker = Marker("</r>", vocabulary)
    overruns = marker.overruns(vocabulary, lambda rest: not rest.strip())
    spelled = [{vocabulary.spellings[token] for token in tokens_in(overruns[seen]).tolist()} for seen in range(4)]
    assert spelled[0] == spelled[1] == spelled[2] == {b"a</r>b"}
    going_on = {text for text in vocabulary.spellings if text.startswith(b">") and text[1:].strip()}
    assert spelled[3] == going_on | {b"a</r>b"}
    assert going_on >= {b">{", b">>"}


def test_a_token_of_its_own_is_the_only_spelling(vocabulary: Vocabulary) -> None:
    marker = Marker("<think>", vocabulary)
    token = vocabulary.added["<think>"]
    assert marker.find(0, 65, b"<think>") == (0, None)
    assert marker.find(0, token, b"<think>") == (0, b"")
    assert marker.begin(0, 65, b"<") is None
    assert [tokens_in(words).tolist() for words in marker.beginnings(vocabulary)] == [[token]]
    assert marker.overruns(vocabulary, lambda _: False) == {}
