import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import load
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from app.handler.lm.detokenizer import BytesDetokenizer, Detokenizer, WindowDetokenizer, detokenizer_factory
from tests.fixtures import tiny_tokenizers
from tests.fixtures.tiny_tokenizers import ADDED, SPECIAL, Style

STYLES = get_args(Style)
# Past the end of every vocabulary here, as padded vocabularies have them.
LAST_ID = 1040
TEXT = (
    "A caf\u00e9, \u4f60\u597d\u4e16\u754c \U0001f468\u200d\U0001f469\u200d\U0001f467"
    " \U0001f9ff\u2764\ufe0f \u043c\u0438\u0440\n\t  two  spaces "
)


@cache
def tokenizer(style: Style) -> Tokenizer:
    return tiny_tokenizers.build(style)


@cache
def factory(style: Style) -> Callable[[], Detokenizer]:
    return detokenizer_factory(PreTrainedTokenizerFast(tokenizer_object=tokenizer(style)))


def stream(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def check(style: Style, ids: list[int]) -> None:
    pieces = stream(factory(style)(), ids)
    assert "".join(pieces) == tiny_tokenizers.decode(tokenizer(style), ids)
    assert all(is_whole(piece) for piece in pieces)


def is_whole(piece: str) -> bool:
    """Whether a piece holds whole code points: it is text that UTF-8 has."""
    return piece.encode("utf-8").decode("utf-8") == piece


def test_each_style_takes_the_intended_way() -> None:
    kinds = {style: type(factory(style)()) for style in STYLES}
    assert kinds == {
        "byte-level": BytesDetokenizer,
        "spm": BytesDetokenizer,
        "spm-no-strip": BytesDetokenizer,
        "metaspace": WindowDetokenizer,
    }


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(ids=st.lists(st.integers(0, LAST_ID), max_size=24))
def test_the_pieces_are_the_whole_text_for_any_ids(style: Style, ids: list[int]) -> None:
    check(style, ids)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(text=st.text(st.sampled_from(TEXT) | st.characters(exclude_categories=["Cs"]), max_size=24))
def test_any_text_that_was_encoded_comes_back(style: Style, text: str) -> None:
    ids = tokenizer(style).encode(text, add_special_tokens=False).ids
    check(style, ids)
    if style == "byte-level":
        assert "".join(stream(factory(style)(), ids)) == text
    if style == "spm-no-strip":
        assert "".join(stream(factory(style)(), ids)) == text.replace("\u2581", " ")


@pytest.mark.parametrize("style", STYLES)
def test_long_random_rows(style: Style) -> None:
    draw = random.Random(5)
    for _ in range(20):
        check(style, [draw.randrange(LAST_ID) for _ in range(400)])


@pytest.mark.parametrize("style", ["byte-level", "spm", "spm-no-strip"])
def test_valid_text_agrees_with_the_library_itself(style: Style) -> None:
    ids = tokenizer(style).encode(TEXT, add_special_tokens=False).ids
    assert "".join(stream(factory(style)(), ids)) == tokenizer(style).decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("style", STYLES)
def test_special_and_added_tokens_are_text(style: Style) -> None:
    vocabulary = tokenizer(style).get_vocab()
    ids = [vocabulary[token] for token in (*SPECIAL, *ADDED)]
    assert stream(factory(style)(), ids) == [*SPECIAL, *ADDED, ""]
    check(style, [index for pair in zip(ids, reversed(ids), strict=True) for index in pair])


@pytest.mark.parametrize("style", STYLES)
def test_ids_of_a_padded_vocabulary_are_no_text(style: Style) -> None:
    ids = tokenizer(style).encode("hello you", add_special_tokens=False).ids
    padded = [LAST_ID, *(index for pair in zip(ids, [100_000] * len(ids), strict=True) for index in pair)]
    assert "".join(stream(factory(style)(), padded)) == "".join(stream(factory(style)(), ids))


@pytest.mark.parametrize("style", ["byte-level", "spm"])
def test_a_character_of_several_tokens_comes_out_whole_with_its_last_token(style: Style) -> None:
    ids = tokenizer(style).encode("x\U0001f9ff", add_special_tokens=False).ids
    assert len(ids) > 2
    pieces = stream(factory(style)(), ids)
    assert "".join(pieces) == "x\U0001f9ff"
    assert pieces[-2:] == ["\U0001f9ff", ""]


@pytest.mark.parametrize("style", ["byte-level", "spm"])
def test_a_broken_character_neither_hides_nor_holds_what_follows(style: Style) -> None:
    first, *_ = tokenizer(style).encode("\U0001f9ff", add_special_tokens=False).ids
    (letter,) = tokenizer(style).encode("e", add_special_tokens=False).ids
    assert stream(factory(style)(), [first, letter, letter]) == ["", "\ufffde", "e", ""]
    assert stream(factory(style)(), [letter, first]) == ["e", "", "\ufffd"]


def test_only_the_first_space_of_a_row_is_stripped() -> None:
    (space,) = tokenizer("spm").encode(" ", add_special_tokens=False).ids
    assert stream(factory("spm")(), [LAST_ID, space, space, space]) == ["", "", " ", " ", ""]


def test_rows_do_not_share_what_they_hold_back() -> None:
    first, *rest = tokenizer("byte-level").encode("\U0001f9ff", add_special_tokens=False).ids
    one, other = factory("byte-level")(), factory("byte-level")()
    assert one.push(first) == ""
    assert other.finish() == ""
    assert "".join(map(one.push, rest)) == "\U0001f9ff"


def test_a_tokenizer_as_mlx_lm_loads_it(tmp_path: Path) -> None:
    backend = tiny_tokenizers.write(tmp_path, "byte-level")
    make = detokenizer_factory(load(tmp_path)._tokenizer)
    assert "".join(stream(make(), backend.encode(TEXT).ids)) == TEXT


def test_a_decoder_that_is_almost_sentencepieces_is_left_to_the_library() -> None:
    content = json.loads(tokenizer("spm").to_str())
    content["decoder"]["decoders"][0]["content"] = "_"
    odd = Tokenizer.from_str(json.dumps(content))
    make = detokenizer_factory(PreTrainedTokenizerFast(tokenizer_object=odd))
    ids = odd.encode("a quick fox").ids
    assert "".join(stream(make(), ids)) == odd.decode(ids) != "a quick fox"


def test_bytes_that_only_the_library_can_decode() -> None:
    """The window holds back what a later token may still complete."""
    content = json.loads(tokenizer("byte-level").to_str())
    content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"]]}
    wrapped = Tokenizer.from_str(json.dumps(content))
    make = detokenizer_factory(PreTrainedTokenizerFast(tokenizer_object=wrapped))
    assert isinstance(make(), WindowDetokenizer)
    draw = random.Random(6)
    for _ in range(100):
        ids = [draw.randrange(LAST_ID) for _ in range(40)]
        assert "".join(stream(make(), ids)) == wrapped.decode(ids, skip_special_tokens=False)
    emoji = wrapped.encode("\U0001f9ff").ids
    assert stream(make(), emoji) == [*[""] * (len(emoji) - 1), "\U0001f9ff", ""]


def test_no_decoder_at_all() -> None:
    content = json.loads(tokenizer("metaspace").to_str())
    content["decoder"] = None
    plain = Tokenizer.from_str(json.dumps(content))
    make = detokenizer_factory(PreTrainedTokenizerFast(tokenizer_object=plain))
    ids = plain.encode("a quick fox").ids
    assert "".join(stream(make(), ids)) == plain.decode(ids)
