import re
from pathlib import Path

import pytest

from app.text.families import FAMILIES, find_family
from app.text.family import Family, prompt_opens_reasoning
from app.text.markup import markup_of
from app.text.reader import MarkupReader
from tests.text.corpus import cases
from tests.text.corpus_adapter import fold, read

WITH_REASONING = [family for family in FAMILIES.values() if family.reasoning]


def test_families_are_found_by_their_names() -> None:
    assert find_family("qwen3") is FAMILIES["qwen3"]
    assert find_family("no such model") is None
    assert set(cases()) < set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_markers_do_not_begin_with_white_space(family: Family) -> None:
    """Else they would never be found: white space before a marker is not part of it."""
    texts = [*markup_of(family, has_tools=True).markers.texts, *(family.frame.opens if family.frame else ())]
    assert all(text == text.strip() for text in texts)


@pytest.mark.parametrize("family", WITH_REASONING, ids=lambda family: family.name)
def test_reasoning_is_told_from_the_answer(family: Family) -> None:
    reasoning = family.reasoning
    assert reasoning
    for opened in (True, False):
        text = f"{'' if opened else reasoning.open}Hm.{reasoning.close}"
        got = fold(read(MarkupReader(family, starts_in_reasoning=opened), [text]))
        assert got == {"content": "", "reasoning": "Hm.", "tool_calls": []}
    if family.frame is None:
        got = fold(read(MarkupReader(family, starts_in_reasoning=None), [f"{reasoning.open}\nHm.{reasoning.close}Hi."]))
        assert got == {"content": "Hi.", "reasoning": "Hm.", "tool_calls": []}


def test_the_prompt_opens_reasoning_where_it_ends_with_the_marker() -> None:
    family = FAMILIES["qwen3"]
    assert prompt_opens_reasoning(family, "<|im_start|>assistant\n<think>\n")
    for tail in ("<think>\n\n</think>\n\n", "What is <think>?<|im_end|>\n<|im_start|>assistant\n", ""):
        assert not prompt_opens_reasoning(family, tail)
    assert not prompt_opens_reasoning(FAMILIES["generic"], "<think>")
    assert prompt_opens_reasoning(FAMILIES["kimi-k3"], "<|open|>think<|sep|>")
    assert prompt_opens_reasoning(FAMILIES["apriel1.6"], "Here are my reasoning steps:\n")


def test_the_documentation_names_every_family() -> None:
    text = (Path(__file__).parents[2] / "docs/tool-calls.md").read_text(encoding="utf-8")
    table = {
        name for line in text.splitlines() if line.startswith("| ") for name in re.findall("`([a-z0-9.-]+)`", line)
    }
    assert table == set(FAMILIES)
