import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.text.stops import StopMatcher

# Few letters, so that stop strings overlap with themselves, with each other and with the text.
LETTERS = st.text("ab\u4f60\U0001f600", max_size=30)
STOPS = st.lists(st.text("ab\u4f60\U0001f600", min_size=1, max_size=6), max_size=4).map(tuple)


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text, and the same text in pieces, some of them empty."""
    text = draw(LETTERS)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *places, len(text)]
    return text, [text[start:end] for start, end in itertools.pairwise(edges)]


def naive(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The definition, character by character: the first to be complete wins, of several the longest."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    given_out = "".join(map(matcher.push, pieces))
    if matcher.matched is None:
        given_out += matcher.finish()
    return given_out, matcher.matched


@settings(max_examples=1500, deadline=None, derandomize=True, database=None)
@given(cutting=cuttings(), stops=STOPS)
@example(cutting=("aab", ["a", "ab"]), stops=("ab",))
@example(cutting=("abab", ["ab", "ab"]), stops=("bab", "ab\u4f60"))
@example(cutting=("ab", ["a", "b"]), stops=("b", "ab"))
def test_any_cutting_gives_what_the_whole_text_gives(cutting: tuple[str, list[str]], stops: tuple[str, ...]) -> None:
    text, pieces = cutting
    assert run(pieces, stops) == naive(text, stops)
    assert run(list(text), stops) == naive(text, stops)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(cutting=cuttings(), stops=STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(cutting: tuple[str, list[str]], stops: tuple[str, ...]) -> None:
    """At every moment: what is out and what is held are the text so far, and no more is held than has to be."""
    matcher = StopMatcher(stops)
    taken = out = ""
    for piece in cutting[1]:
        taken += piece
        out += matcher.push(piece)
        if matcher.matched is not None:
            break
        held = taken.removeprefix(out)
        assert out + held == taken
        begun = [size for stop in stops for size in range(1, len(stop)) if taken.endswith(stop[:size])]
        assert len(held) == max(begun, default=0)


def test_no_stop_strings_hold_nothing_back() -> None:
    matcher = StopMatcher(())
    assert matcher.push("text") == "text"
    assert matcher.finish() == ""
    assert matcher.matched is None


def test_after_a_match_there_is_nothing() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("beforeEN") == "before"
    assert matcher.push("Dafter") == ""
    assert matcher.matched == "END"
    assert matcher.push("more") == ""
    assert matcher.finish() == ""


def test_what_was_held_back_comes_once() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("textEN") == "text"
    assert matcher.finish() == "EN"
    assert matcher.finish() == ""
