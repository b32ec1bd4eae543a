import pytest

from app.core.completion import CallPart, ReasoningPart, TextPart, fold
from app.core.events import (
    ChoiceEnded,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)

USAGE = Usage(3, 7)


def test_parts_come_in_the_order_of_their_events() -> None:
    whole = fold(
        [
            Started(3),
            PrefillProgress(3, 3),
            ReasoningDelta("I "),
            ReasoningDelta("think."),
            TextDelta("Let "),
            TextDelta("me."),
            ToolCallStarted(0, "a", "look"),
            ToolCallDelta(0, '{"x"'),
            ToolCallDelta(0, ": 1}"),
            ToolCallEnded(0),
            ToolCallStarted(1, "b", "ping"),
            ToolCallDelta(1, "{}"),
            ToolCallEnded(1),
            TextDelta("Done."),
            ChoiceEnded("tool_calls"),
            Finished(USAGE),
        ]
    )
    (choice,) = whole.choices
    assert choice.parts == [
        ReasoningPart("I think."),
        TextPart("Let me."),
        CallPart("a", "look", '{"x": 1}', is_complete=True),
        CallPart("b", "ping", "{}", is_complete=True),
        TextPart("Done."),
    ]
    assert (choice.text, choice.reasoning, choice.reason) == ("Let me.Done.", "I think.", "tool_calls")
    assert whole.usage == USAGE


def test_a_call_that_is_cut_off_is_not_complete() -> None:
    events = [ToolCallStarted(0, "a", "look"), ToolCallDelta(0, '{"x'), ChoiceEnded("length"), Finished(USAGE)]
    (choice,) = fold(events).choices
    assert choice.calls == [CallPart("a", "look", '{"x')]


def test_what_was_no_call_after_all_is_text_alone() -> None:
    begun = [ToolCallStarted(0, "a", "look"), ToolCallDelta(0, '{"x')]
    again = [ToolCallStarted(1, "b", "look"), ToolCallDelta(1, "{}"), ToolCallEnded(1)]
    (choice,) = fold([*begun, TextDelta('look{"x!'), *again, ChoiceEnded("tool_calls"), Finished(USAGE)]).choices
    assert choice.parts == [TextPart('look{"x!'), CallPart("b", "look", "{}", is_complete=True)]


def test_choices_are_told_apart() -> None:
    events = [
        TextDelta("b", 1),
        TextDelta("a"),
        TextDelta("B", 1),
        ChoiceEnded("stop", 1, "!"),
        ChoiceEnded("length"),
        Finished(USAGE),
    ]
    first, second = fold(events).choices
    assert (first.text, first.reason, first.stop_sequence) == ("a", "length", None)
    assert (second.text, second.reason, second.stop_sequence) == ("bB", "stop", "!")


def test_logprobs_are_joined_and_absent_where_nobody_asked() -> None:
    one, two = TokenLogprob(b"a", -1.0, []), TokenLogprob(b"b", -2.0, [])
    events = [TextDelta("a", 0, [one]), TextDelta("b", 0, [two]), TextDelta("c", 1)]
    first, second = fold([*events, ChoiceEnded("stop"), ChoiceEnded("stop", 1), Finished(USAGE)]).choices
    assert first.logprobs == [one, two]
    assert second.logprobs is None


def test_an_empty_text_that_brings_logprobs_is_no_part() -> None:
    (choice,) = fold([TextDelta("", 0, []), ChoiceEnded("stop"), Finished(USAGE)]).choices
    assert (choice.parts, choice.logprobs, choice.text) == ([], [], "")


def test_events_without_an_end_are_no_generation() -> None:
    with pytest.raises(ValueError, match="without its Finished"):
        fold([TextDelta("a"), ChoiceEnded("stop")])
