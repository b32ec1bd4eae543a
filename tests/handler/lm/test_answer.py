import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.conversation import Tool
from app.core.events import ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, ToolCallEnded, ToolCallStarted
from app.handler.lm.answer import Answer, AnswerEvent, Reading
from app.text.families import FAMILIES
from app.text.offered import read_tools
from app.text.pieces import Content

LOOK = read_tools([Tool("look", None, '{"type":"object","properties":{"at":{"type":"string"}}}')])
QWEN = Reading(FAMILIES["qwen3"], LOOK, starts_in_reasoning=False)
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "END"}}\n</tool_call>'
WHOLE = f"<think>\nI END here.\n</think>\n\nWell: {CALL}\nDone."


def told(
    pieces: list[str], reading: Reading | None, stops: tuple[str, ...] = (), *, logprobs: bool = False
) -> list[AnswerEvent]:
    """The events of an answer whose tokens are these pieces of text."""
    answer = Answer(0, stops, reading, has_logprobs=logprobs)
    events: list[AnswerEvent] = []
    for piece in pieces:
        events += answer.take(piece, TokenLogprob(piece.encode(), -1.0, []) if logprobs else None)
        if answer.is_over:
            break
    return events + answer.finish("")


def content(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def thought(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted({place % len(text) for place in places} - {0}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 10**6), max_size=40)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(CUTS)
def test_thought_calls_and_answer_are_told_apart_however_they_are_cut(places: list[int]) -> None:
    events = told(cut(WHOLE, places), QWEN)
    assert thought(events) == "I END here."
    assert content(events) == "Well:\nDone."
    (started,) = [event for event in events if isinstance(event, ToolCallStarted)]
    assert (started.index, started.name) == (0, "look")
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    assert json.loads(arguments) == {"at": "END"}
    assert [event.index for event in events if isinstance(event, ToolCallEnded)] == [0]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(CUTS)
def test_stop_strings_are_the_answers_alone(places: list[int]) -> None:
    events = told(cut(f"{WHOLE} And END of it.", places), QWEN, ("END",))
    assert thought(events) == "I END here."
    assert content(events) == "Well:\nDone. And "


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(CUTS, st.sampled_from([(), ("one",), (" of", "Done")]), st.sampled_from([QWEN, None]))
def test_log_probabilities_are_those_of_the_tokens_that_made_the_answer(
    places: list[int], stops: tuple[str, ...], reading: Reading | None
) -> None:
    pieces = cut(WHOLE, places)
    events = told(pieces, reading, stops, logprobs=True)
    assert all(event.logprobs is not None for event in events if isinstance(event, TextDelta))
    tokens = [one.token.decode() for event in events if isinstance(event, TextDelta) for one in event.logprobs or []]
    made_of = content_places(reading)[: len(content(events))]
    ends = list(itertools.accumulate(map(len, pieces)))
    spans = zip([0, *ends], ends, strict=False)
    assert tokens == [WHOLE[start:end] for start, end in spans if any(start <= place < end for place in made_of)]


def content_places(reading: Reading | None) -> list[int]:
    """Where in the whole text the answer's characters are."""
    if reading is None:
        return list(range(len(WHOLE)))
    reader = reading.reader()
    pieces = [piece for piece in [*reader.push(WHOLE), *reader.finish()] if isinstance(piece, Content)]
    return [piece.start + offset for piece in pieces for offset in range(len(piece.text))]


def test_tokens_of_markup_have_no_place_in_the_log_probabilities() -> None:
    pieces = ["<think>", "Hm", "</think>", "\n\n", "Yes", ".", CALL]
    events = told(pieces, QWEN, logprobs=True)
    tokens = [one.token for event in events if isinstance(event, TextDelta) for one in event.logprobs or []]
    assert tokens == [b"Yes", b"."]


def test_a_character_of_two_tokens_has_both() -> None:
    answer = Answer(0, (), QWEN, has_logprobs=True)
    first, second = TokenLogprob(b"\xc3", -1.0, []), TokenLogprob(b"\xa9", -2.0, [])
    assert answer.take("", first) == []
    assert answer.take("\u00e9", second) == [TextDelta("\u00e9", 0, [first, second])]


def test_an_answer_without_text_has_an_empty_list() -> None:
    assert told([], None, logprobs=True) == [TextDelta("", 0, [])]
    assert told(["stop"], None, ("stop",), logprobs=True) == [TextDelta("", 0, [])]
    assert told([], None) == []


def test_reasoning_inline_and_stripped() -> None:
    text = ["<think>", "Hm.", "</think>", "\n\nYes."]
    assert content(told(text, replace(QWEN, mode="inline"))) == "<think>\nHm.\n</think>\n\nYes."
    assert content(told(text[:2], replace(QWEN, mode="inline"))) == "<think>\nHm.\n</think>\n\n"
    stripped = told(text, replace(QWEN, mode="strip"))
    assert (content(stripped), thought(stripped)) == ("Yes.", "")
    opened = replace(QWEN, mode="inline", starts_in_reasoning=True)
    assert content(told(text[1:], opened)) == "<think>\nHm.\n</think>\n\nYes."


def test_one_call_is_enough_where_one_is_asked_for() -> None:
    events = told([CALL, "\n", CALL], replace(QWEN, is_parallel=False))
    assert sum(isinstance(event, ToolCallStarted) for event in events) == 1
    assert isinstance(events[-1], ToolCallEnded)
    assert sum(isinstance(event, ToolCallEnded) for event in told([CALL, "\n", CALL], QWEN)) == 2


def test_ids_are_unique_and_numbers_count() -> None:
    started = [event for event in told([CALL, CALL, CALL], QWEN) if isinstance(event, ToolCallStarted)]
    assert [event.index for event in started] == [0, 1, 2]
    assert len({event.id for event in started}) == 3


def test_a_call_cut_off_never_ends() -> None:
    events = told([CALL[:-25]], QWEN)
    assert isinstance(events[0], ToolCallStarted)
    assert not any(isinstance(event, ToolCallEnded) for event in events)


def test_text_before_a_call_that_might_have_begun_a_stop_string_is_told_before_it() -> None:
    events = told(["It EN", CALL], QWEN, ("END",))
    assert events[0:1] == [TextDelta("It ")]
    assert events[1] == TextDelta("EN")
    assert isinstance(events[2], ToolCallStarted)


@pytest.mark.parametrize(("is_special", "expected"), [(True, "Hm."), (False, "")])
def test_a_marker_that_is_a_token_counts_as_that_token_only(is_special: bool, expected: str) -> None:
    reading = replace(QWEN, special=frozenset({"<think>", "</think>"}))
    answer = Answer(0, (), reading, has_logprobs=False)
    events = answer.take("<think>", None, is_special=is_special)
    events += answer.take("Hm.", None)
    events += answer.take("</think>", None, is_special=is_special)
    events += answer.finish("")
    assert thought(events) == expected
    assert content(events) == ("" if is_special else "<think>Hm.</think>")
