from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from app.handler.speech.script import SpokenWord, cut
from app.handler.speech.timing import Place, time_segment
from tests.fixtures.tiny_kokoro import PHONEMES

# Times in half frames.
COUNTING = Place(start=0, half_frame=1, sample_rate=1)


def test_marks_belong_to_their_phonemes_and_spaces_to_both_words() -> None:
    (segment,) = cut([SpokenWord("Sea", "sˈiː"), SpokenWord("at,", "æt,")], 100)
    # Before, s, stress, i, length, space, æ, t, comma, after.
    timings = time_segment(segment, [5, 1, 2, 3, 4, 6, 1, 1, 2, 7], COUNTING)
    assert [(one.text, one.start_s, one.end_s) for one in timings.phonemes] == [
        ("sil", 0, 10),
        ("s", 10, 12),
        ("ˈiː", 12, 36),
        ("æ", 36, 44),
        ("t", 44, 46),
        ("sil", 46, 64),
    ]
    assert [(one.text, one.start_s, one.end_s) for one in timings.words] == [("Sea", 0, 36), ("at,", 36, 64)]
    assert [(one.viseme, one.start_s) for one in timings.visemes] == [
        (0, 0),
        (15, 10),
        (6, 12),
        (1, 36),
        (19, 44),
        (0, 46),
    ]


def test_a_mouth_that_stays_is_one_viseme() -> None:
    (segment,) = cut([SpokenWord("Tent", "tˈɛnt")], 100)
    timings = time_segment(segment, [1, 1, 1, 1, 1, 1, 1], Place(start=240, half_frame=300, sample_rate=24_000))
    assert [(one.viseme, one.start_s, one.end_s) for one in timings.visemes] == [
        (0, 0.01, 0.035),
        (19, 0.035, 0.06),
        (4, 0.06, 0.11),
        (19, 0.11, 0.16),
        (0, 0.16, 0.185),
    ]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    words=st.lists(st.text(PHONEMES.replace(" ", ""), min_size=1, max_size=6), min_size=1, max_size=6), data=st.data()
)
def test_every_list_covers_the_audio(words: list[str], data: st.DataObject) -> None:
    for segment in cut([SpokenWord(word, word) for word in words], 12):
        length = len(segment.phonemes) + 2
        frames = data.draw(st.lists(st.integers(1, 9), min_size=length, max_size=length))
        timings = time_segment(segment, frames, Place(start=7, half_frame=1, sample_rate=1))
        for spans in (timings.words, timings.phonemes, timings.visemes):
            assert spans[0].start_s == 7
            assert spans[-1].end_s == 7 + 2 * sum(frames)
            assert all(before.end_s == after.start_s for before, after in pairwise(spans))
            assert all(span.start_s < span.end_s for span in spans)
        assert "".join(one.text for one in timings.words) == "".join(word.text for word in segment.words)
