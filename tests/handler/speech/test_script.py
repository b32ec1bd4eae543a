from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from app.handler.speech.script import PAUSES, Segment, SpokenWord, cut

SENTENCE = "wˈʌn tˈu θɹˈi fˈɔɹ fˈIv sˈɪks."


def words_of(phonemes: str) -> list[SpokenWord]:
    """Words whose text is their phonemes; _ is one that is not said."""
    return [SpokenWord(word, word.replace("_", "")) for word in phonemes.split()]


def said(segments: Sequence[Segment]) -> list[str]:
    return [segment.phonemes for segment in segments]


def test_sentences_are_segments() -> None:
    assert said(cut(words_of(f"{SENTENCE} {SENTENCE}"), 100)) == [SENTENCE, SENTENCE]


def test_a_short_sentence_is_said_with_its_neighbour() -> None:
    assert said(cut(words_of(f"nˈO. {SENTENCE}"), 100)) == [f"nˈO. {SENTENCE}"]
    assert said(cut(words_of(f"{SENTENCE} nˈO."), 100)) == [SENTENCE, "nˈO."]
    assert said(cut(words_of(f"nˈO. {SENTENCE}"), len(SENTENCE))) == ["nˈO.", SENTENCE]


def test_quotes_do_not_hide_the_end_of_a_sentence() -> None:
    assert len(cut(words_of(f"{SENTENCE}” {SENTENCE}"), 100)) == 2


def test_a_long_sentence_ends_at_a_clause() -> None:
    assert said(cut(words_of("wˈʌn tˈu, θɹˈi fˈɔɹ"), 14)) == ["wˈʌn tˈu,", "θɹˈi fˈɔɹ"]
    # Not at one so early that little is said.
    assert said(cut(words_of("wˈʌn, tˈu θɹˈi fˈɔɹ fˈIv sˈɪks"), 25)) == ["wˈʌn, tˈu θɹˈi fˈɔɹ fˈIv", "sˈɪks"]


def test_a_word_longer_than_a_segment_is_several() -> None:
    segments = cut(words_of("abcdefgh."), 3)
    assert said(segments) == ["abc", "def", "gh."]
    assert [word.text for segment in segments for word in segment.words] == ["abcdefgh.", "", ""]


def test_what_is_not_said_belongs_to_its_neighbour() -> None:
    (segment,) = cut(words_of("_ — wˈʌn _ … tˈu _"), 100)
    assert segment.phonemes == "— wˈʌn … tˈu"
    assert [word.text for word in segment.words] == ["_ — wˈʌn _ …", "tˈu _"]


def test_pauses_alone_are_nothing() -> None:
    assert cut(words_of("… _ — ?!"), 100) == []
    assert cut([], 100) == []


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(words=st.lists(st.text("_ab,.—", min_size=1, max_size=9), max_size=30), most=st.integers(1, 20))
def test_everything_is_said_in_order_and_fits(words: list[str], most: int) -> None:
    given_words = words_of(" ".join(words))
    segments = cut(given_words, most)
    assert all(0 < len(segment.phonemes) <= most for segment in segments)
    for segment in segments:
        assert " ".join(segment.phonemes[word.start : word.end] for word in segment.words) == segment.phonemes
    sounds = "".join(word.phonemes for word in given_words)
    heard = "".join(said(segments)).replace(" ", "")
    assert heard == (sounds if set(sounds) - PAUSES else "")
    if segments:
        text = "".join(word.text for segment in segments for word in segment.words).replace(" ", "")
        assert text == "".join(words)
