"""What comes out depends on the whole text only, and no text is lost."""

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from app.text.families import FAMILIES
from app.text.family import Family
from app.text.markup import markup_of
from app.text.pieces import CallArguments, CallEnded, CallStarted, Content, Piece, Thought
from app.text.reader import MarkupReader
from tests.text.corpus import cases
from tests.text.corpus_adapter import offered, read

TOOLS = offered(next(iter(cases().values()))[0]["tools"])
# What may be between the pieces beside markers: separators, and brackets that end lists or are too many.
BETWEEN = re.compile(r"[\s\[\],;}]*")
PARTS = st.sampled_from(
    [
        *(
            "Hello",
            " there. ",
            "\n\n",
            " ",
            "\r\n",
            "é\U0001f600你",
            "<",
            "</",
            "\\",
            '"',
            "'",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
        ),
        *(
            '{"a": [1, null]}',
            '{"name": "ping", "arguments": {}}',
            "ping()",
            "get_weather",
            "```json\n",
            "all\n",
            "=",
            ">",
        ),
    ]
)


@st.composite
def texts(draw: st.DrawFn) -> tuple[Family, list[str]]:
    """A family, and parts of a text: what its models write, whole and in part, its markers, and anything."""
    family = FAMILIES[draw(st.sampled_from(sorted(cases())))]
    markers = st.sampled_from(all_markers(family))
    whole = st.sampled_from([case["raw"] for case in cases()[family.name]])
    part = st.builds(
        lambda text, start, size: text[start % len(text) :][: size or None], whole, *[st.integers(0, 80)] * 2
    )
    return family, draw(st.lists(st.one_of(whole, part, markers, PARTS), min_size=1, max_size=7))


def all_markers(family: Family) -> list[str]:
    markup = markup_of(family, has_tools=True)
    return [*markup.markers.texts, *(end for region in family.regions for end in markup.ends_of(region))]


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same with what belongs together in one piece."""
    result: list[Piece] = []
    for piece in pieces:
        match result[-1] if result else None, piece:
            case (Content(before, start), Content(text, place)) if start + len(before) == place:
                result[-1] = Content(before + text, start)
            case (Thought(before, start), Thought(text, place)) if start + len(before) == place:
                result[-1] = Thought(before + text, start)
            case (CallArguments(before), CallArguments(text)):
                result[-1] = CallArguments(before + text)
            case _:
                result.append(piece)
    return result


def reader(family: Family, *, is_open: bool, special: frozenset[str] = frozenset()) -> MarkupReader:
    return MarkupReader(family, TOOLS, starts_in_reasoning=is_open, special=special)


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(given_text=texts(), places=st.lists(st.integers(0, 2000), max_size=8), is_open=st.booleans())
def test_any_cutting_gives_what_the_whole_text_gives(
    given_text: tuple[Family, list[str]], places: list[int], is_open: bool
) -> None:
    family, parts = given_text
    text = "".join(parts)
    expected = joined(read(reader(family, is_open=is_open), [text]))
    assert joined(read(reader(family, is_open=is_open), cut(text, places))) == expected
    assert joined(read(reader(family, is_open=is_open), list(text))) == expected


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(given_text=texts(), places=st.lists(st.integers(0, 2000), max_size=8), kinds=st.integers(0, 2**32))
def test_the_same_where_markers_are_tokens(given_text: tuple[Family, list[str]], places: list[int], kinds: int) -> None:
    """Some markers are tokens of their own; what is not one of these may be cut, and spell one out."""
    family, parts = given_text
    tokens = sorted(set(all_markers(family)))
    special = frozenset(token for place, token in enumerate(tokens) if kinds >> place % 32 & 1)
    plain = reader(family, is_open=False, special=special)
    expected = joined(
        [piece for part in parts for piece in plain.push(part, is_special=part in special)] + plain.finish()
    )
    pieces: list[Piece] = []
    other = reader(family, is_open=False, special=special)
    for part in parts:
        for chunk in [part] if part in special else cut(part, places):
            pieces += other.push(chunk, is_special=part in special)
    assert joined(pieces + other.finish()) == expected


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(given_text=texts(), is_open=st.booleans())
def test_no_text_is_lost(given_text: tuple[Family, list[str]], is_open: bool) -> None:
    """Texts are verbatim and in order; between them and calls there are markers, white space and brackets only."""
    family, parts = given_text
    text = "".join(parts)
    pieces = read(reader(family, is_open=is_open), [text])
    spans: list[tuple[int, int]] = []
    started: int | None = None
    for piece in pieces:
        match piece:
            case Content(part, start) | Thought(part, start):
                assert text[start : start + len(part)] == part
                spans.append((start, start + len(part)))
                started = None
            case CallStarted(_, start):
                started = start
            case CallEnded(end):
                assert started is not None
                spans.append((started, end))
                started = None
            case CallArguments():
                assert started is not None
    if started is not None:
        spans.append((started, len(text)))
    for kind in (Content, Thought):
        starts = [piece.start for piece in pieces if isinstance(piece, kind)]
        assert starts == sorted(starts)
    place = 0
    for start, end in [*sorted(spans), (len(text), len(text))]:
        assert start >= place
        check_gap(text[place:start], family)
        place = end


def check_gap(gap: str, family: Family) -> None:
    frame = family.frame
    if frame:
        headers = "|".join(re.escape(begun) for begun in (*frame.opens, *frame.begun))
        gap = re.sub(rf"(?:{headers}){frame.chars.pattern}?{re.escape(frame.end)}", "", gap)
    for marker in sorted(all_markers(family), key=len, reverse=True):
        gap = gap.replace(marker, "")
    assert BETWEEN.fullmatch(gap), gap
