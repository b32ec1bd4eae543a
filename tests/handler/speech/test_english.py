import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.handler.speech.english import EnglishPronouncer
from app.handler.speech.english_letters import VOWELS, sound_out
from app.handler.speech.english_reading import read
from app.handler.speech.script import cut
from tests.fixtures.tiny_kokoro import PHONEMES

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def american() -> EnglishPronouncer:
    return EnglishPronouncer(is_british=False)


@pytest.fixture(scope="module")
def british() -> EnglishPronouncer:
    return EnglishPronouncer(is_british=True)


def said(pronouncer: EnglishPronouncer, text: str) -> str:
    return " ".join(word.phonemes for word in pronouncer.pronounce(text) if word.phonemes)


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello world, this is a test.", "həlˈO wˈɜɹld, ðɪs ɪz ɐ tˈɛst."),
        ("The cat and the apple.", "ðə kˈæt ænd ði ˈæpᵊl."),
        ("I go to eat; to go.", "ˌI ɡˌO tʊ ˈit; tə ɡˌO."),
        ("to record the record", "tə ɹəkˈɔɹd ðə ɹˈɛkəɹd"),
        ("I have read what you read.", "ˌI hæv ɹˈɛd wˌʌt ju ɹˈid."),
        ("“Yes”, she said (quietly).", "“jˈɛs”, ʃi sˈɛd (kwˈIətli)."),
        ('He said "no" twice', 'hi sˈɛd "nˈO" twˈIs'),
        ("Smith's dogs' bones", "smˈɪθs dˈɔɡz bˈOnz"),
    ],
)
def test_sentences(american: EnglishPronouncer, text: str, phonemes: str) -> None:
    assert said(american, text) == phonemes


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("USA", "U S A"),
        ("US", "U S"),
        ("Dr. Smith", "doctor Smith"),
        ("café naïve", "cafe naive"),
        ("１２", "twelve"),
        ("don’t", "don't"),
        ("$5 million.", "five million dollars."),
        ("First line\n\nSecond", "First line. Second"),
        ("hard\nwrapped", "hard wrapped"),
    ],
)
def test_what_is_said_alike(american: EnglishPronouncer, text: str, alike: str) -> None:
    expected = said(american, alike)
    got = said(american, text)
    assert got.replace(" ", "").replace("ˈ", "").replace("ˌ", "") == expected.replace(" ", "").replace("ˈ", "").replace(
        "ˌ", ""
    )


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("1995,", "nineteen ninety five ,"),
        ("1905", "nineteen oh five"),
        ("2000", "two thousand"),
        ("1900s", "nineteen hundreds"),
        ("1990s", "nineteen nineties"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("1" * 40, "one " * 40),
        ("007", "zero zero seven"),
        ("3.14", "three point one four"),
        ("-5°C", "minus five degrees C"),
        ("21st", "twenty first"),
        ("30th", "thirtieth"),
        ("10:05", "ten oh five"),
        ("12:00", "twelve o'clock"),
        ("$1.01", "one dollar and one cent"),
        ("£2.50", "two pounds and fifty pence"),
        ("$0.99", "ninety nine cents"),
        ("€3bn", "three billion euros"),
        ("20%", "twenty percent"),
        ("50km", "fifty kilometers"),
        ("10-20", "ten to twenty"),
        ("555-1234", "five hundred fifty five one two three four"),
        ("½", "half"),
        ("2½", "two and a half"),
        ("well-known", "well known"),
        ("and/or", "and slash or"),
        ("#5", "number five"),
        ("#", ""),
        ("**bold**", "bold"),
        ("bob@example.com", "bob at example dot com"),
        ("camelCase", "camel Case"),
        ("APIs", "API's"),
        ("U.S.", "U S ."),
        ("e.g.,", "for example ,"),
        ("wait...", "wait …"),
        ("a--b", "a — b"),
        ("«so»", "“ so ”"),
        ("🎉你好", ""),
    ],
)
def test_readings(piece: str, words: str) -> None:
    assert read(piece) == words.split()


def test_etc_may_end_a_sentence() -> None:
    assert read("etc.", "The") == ["et", "cetera", "."]
    assert read("etc.", "and") == ["et", "cetera"]
    assert read("Dr.", "Smith") == ["doctor"]


@pytest.mark.parametrize(
    ("word", "american", "british"),
    [
        ("blorp", "blˈɔɹp", "blˈɔːp"),
        ("frobnicate", "fɹˈɑbnɪkAt", "fɹˈɒbnɪkAt"),
        ("snazzle", "snˈæzᵊl", "snˈazᵊl"),
        ("quintation", "kwɪntˈAʃən", "kwɪntˈAʃən"),
        ("phighter", "fˈItəɹ", "fˈItə"),
        ("knurge", "nˈɜɹʤ", "nˈɜːʤ"),
    ],
)
def test_unknown_words_are_sounded_out(word: str, american: str, british: str) -> None:
    assert sound_out(word) == american
    assert sound_out(word, is_british=True) == british


def test_unknown_words_are_taken_apart(american: EnglishPronouncer) -> None:
    assert said(american, "toothcloud") == "tˈuθklˌWd"
    assert said(american, "blogging") == "blˈɑɡɪŋ"
    assert said(american, "xkcd") == "ˌɛkskˌAsˌidˈi"


def test_the_british_speak_otherwise(american: EnglishPronouncer, british: EnglishPronouncer) -> None:
    text = "The car has a dance."
    assert (said(american, text), said(british, text)) == ("ðə kˈɑɹ hæz ɐ dˈæns.", "ðə kˈɑː haz ɐ dˈɑːns.")


@pytest.mark.parametrize("part", ["a", "a'", "1", "1-", "1" * 2000 + "-1" * 1000, "a ", "A.", "é", "-", "$1.", "a.b@"])
def test_the_longest_texts_are_said(american: EnglishPronouncer, part: str) -> None:
    words = american.pronounce((part * 4096)[:4096])
    assert all(0 < len(segment.phonemes) <= 510 for segment in cut(words, 510))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(word=st.text(LETTERS, min_size=1, max_size=20))
def test_any_letters_have_a_sound(word: str) -> None:
    phonemes = sound_out(word)
    assert set(phonemes) <= set(PHONEMES)
    assert phonemes.count("ˈ") == bool(VOWELS & set(phonemes))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=st.text(max_size=60) | st.text("aA1.,-'$%:\" \n½é", max_size=30))
def test_no_text_fails(text: str, american: EnglishPronouncer, british: EnglishPronouncer) -> None:
    for pronouncer in (american, british):
        words = pronouncer.pronounce(text)
        assert [word.text for word in words] == text.split()
        assert set("".join(word.phonemes for word in words)) <= set(PHONEMES)
        assert all(word.phonemes == " ".join(word.phonemes.split()) for word in words)
        assert all(len(segment.phonemes) <= 510 for segment in cut(words, 510))
