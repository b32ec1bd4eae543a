"""What is to be said, as phonemes: cut into segments that the model says one at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, takewhile

# What is no sound, but a silence or a tone of voice.
PAUSES = frozenset(' ;:,.!?—…"()“”')
_SENTENCE_ENDS = frozenset(".!?…")
_CLAUSE_ENDS = frozenset(";:,—)”")
_CLOSING = "\")”'"
# A shorter sentence is said together with the next: alone, the model hurries through it.
_SHORT = 24


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A piece of the text, from one space to the next, and its phonemes with the punctuation; possibly none."""

    text: str
    phonemes: str


@dataclass(frozen=True, slots=True)
class PlacedWord:
    """A word, and where its phonemes are in its segment's."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What is said at once: its phonemes, with a space between two words, and its words."""

    phonemes: str
    words: tuple[PlacedWord, ...]


def cut(words: Iterable[SpokenWord], most: int) -> list[Segment]:
    """The segments of a text: sentences, or parts of one with more than `most` phonemes. Empty if nothing is said."""
    segments: list[Segment] = []
    taken: list[SpokenWord] = []
    for sentence in _sentences(_bounded(_audible(words), most)):
        if taken and (_length(taken) >= _SHORT or _length([*taken, *sentence]) > most):
            segments += _parts(taken, most)
            taken = []
        taken += sentence
    return [*segments, *_parts(taken, most)]


def _audible(words: Iterable[SpokenWord]) -> Iterator[SpokenWord]:
    """The words that have a sound, each with the pauses and the silent ones after it; the first also with those before.

    None if there is no sound at all.
    """
    held = SpokenWord("", "")
    for word in words:
        if _has_sound(held) and _has_sound(word):
            yield held
            held = word
        else:
            held = SpokenWord(f"{held.text} {word.text}".strip(), f"{held.phonemes} {word.phonemes}".strip())
    if _has_sound(held):
        yield held


def _has_sound(word: SpokenWord) -> bool:
    return any(phoneme not in PAUSES for phoneme in word.phonemes)


def _bounded(words: Iterable[SpokenWord], most: int) -> Iterator[SpokenWord]:
    """A word with more phonemes than fit, which is no word at all, is several."""
    for word in words:
        for start in range(0, len(word.phonemes), most):
            if part := word.phonemes[start : start + most].strip():
                yield SpokenWord(word.text if start == 0 else "", part)


def _sentences(words: Iterable[SpokenWord]) -> Iterator[list[SpokenWord]]:
    sentence: list[SpokenWord] = []
    for word in words:
        sentence.append(word)
        if word.phonemes.rstrip(_CLOSING)[-1:] in _SENTENCE_ENDS:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _parts(words: list[SpokenWord], most: int) -> Iterator[Segment]:
    """A segment, or as few as hold the words; one that is too long ends at the last clause that fits, else anywhere."""
    while words:
        ends = accumulate(len(word.phonemes) + 1 for word in words)
        count = sum(1 for _ in takewhile(lambda end: end - 1 <= most, ends))
        if count < len(words):
            clauses = (end for end in range(count, count // 2, -1) if words[end - 1].phonemes[-1] in _CLAUSE_ENDS)
            count = next(clauses, count)
        yield _joined(words[:count])
        words = words[count:]


def _joined(words: list[SpokenWord]) -> Segment:
    placed: list[PlacedWord] = []
    start = 0
    for word in words:
        placed.append(PlacedWord(word.text, start, start + len(word.phonemes)))
        start += len(word.phonemes) + 1
    return Segment(" ".join(word.phonemes for word in words), tuple(placed))


def _length(words: list[SpokenWord]) -> int:
    return sum(len(word.phonemes) + 1 for word in words) - 1
