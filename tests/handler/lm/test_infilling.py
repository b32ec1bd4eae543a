"""Fill in the middle, for tokenizers that have each family's markers."""

from pathlib import Path

import pytest
from mlx_lm.tokenizer_utils import load
from tokenizers import AddedToken, Tokenizer, normalizers

from app.errors import InvalidRequest
from app.handler.lm.prompts.infilling import Infilling
from tests.fixtures import tiny_tokenizers
from tests.fixtures.tiny_tokenizers import Style

PREFIX, SUFFIX = "def add(a, b):\n    return", " + b\n\nprint(add(1, 2))\n"
BOS = 0


def opened(folder: Path, tokenizer: Tokenizer, *, has_bos: bool = False) -> Infilling:
    tiny_tokenizers.write(folder, template=None)
    tokenizer.save(str(folder / "tokenizer.json"))
    if has_bos:
        tiny_tokenizers.begin_texts(folder)
    return Infilling(load(folder))


def built(style: Style, *markers: str) -> Tokenizer:
    tokenizer = tiny_tokenizers.build(style)
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    return tokenizer


@pytest.mark.parametrize("style", ["byte-level", "spm"])
@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        (
            ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
            f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
        ),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"),
        (
            ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
            f"<｜fim▁begin｜>{PREFIX}<｜fim▁hole｜>{SUFFIX}<｜fim▁end｜>",
        ),
        (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), f"▁<PRE>{PREFIX}▁<SUF>{SUFFIX}▁<MID>"),
        (("[PREFIX]", "[SUFFIX]", "[MIDDLE]"), f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}"),
        (
            ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
            f"<[fim-suffix]>{SUFFIX}<[fim-prefix]>{PREFIX}<[fim-middle]>",
        ),
    ],
)
def test_each_family_in_its_own_order(tmp_path: Path, style: Style, markers: tuple[str, ...], expected: str) -> None:
    tokenizer = built(style, *markers)
    tokens = opened(tmp_path, tokenizer).tokens(PREFIX, SUFFIX, adds_special_tokens=True)
    spelled = tiny_tokenizers.decode(tokenizer, tokens)
    # One decoder takes the space of a marker for one of the text.
    assert spelled.replace("▁", " ").removeprefix(" ") == expected.replace("▁", " ").removeprefix(" ")
    for marker in markers[:2]:
        assert [tokenizer.id_to_token(token) for token in tokens].count(marker) == 1


def test_no_space_comes_between_the_gap_and_the_text_after_it(tmp_path: Path) -> None:
    """Llama's tokenizer puts one before every text, and the models learned it before the first only."""
    tokenizer = built("spm", "▁<PRE>", "▁<SUF>", "▁<MID>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    tokens = opened(tmp_path, tokenizer).tokens("x", "y", adds_special_tokens=False)
    assert [tokenizer.id_to_token(token) for token in tokens] == ["▁<PRE>", "▁", "x", "▁<SUF>", "y", "▁<MID>"]


def test_the_tokenizers_own_first_token(tmp_path: Path) -> None:
    markers = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    one = opened(tmp_path, built("byte-level", *markers), has_bos=True)
    without = one.tokens("a", "b", adds_special_tokens=False)
    assert BOS not in without
    assert one.tokens("a", "b", adds_special_tokens=True) == [BOS, *without]
    other = opened(tmp_path / "none", built("byte-level", *markers))
    assert other.tokens("a", "b", adds_special_tokens=True) == without


def test_a_text_may_be_empty_on_either_side(tmp_path: Path) -> None:
    tokenizer = built("byte-level", "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    tokens = opened(tmp_path, tokenizer).tokens("", "", adds_special_tokens=True)
    assert [tokenizer.id_to_token(token) for token in tokens] == ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


def test_a_model_without_markers(tmp_path: Path) -> None:
    one = opened(tmp_path, built("byte-level", "<fim_prefix>", "<fim_middle>"))
    with pytest.raises(InvalidRequest, match="code model") as refusal:
        one.tokens("a", "b", adds_special_tokens=True)
    assert refusal.value.param == "suffix"
