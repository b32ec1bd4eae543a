"""English text to phonemes, with no download: a dictionary of 180,000 words, and rules for what is not in it."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

# Imported, though only its files are read: where it is missing, the extra is.
from misaki import data

from app.handler.speech.english_letters import VOWELS, sound_out
from app.handler.speech.english_reading import MARKS, owed, read
from app.handler.speech.script import SpokenWord

_Entry = str | Mapping[str, str | None]
# Tags of the dictionary's words that are said in two ways, after which words they are likely.
_TAGS: Final = tuple(
    (frozenset(words.split()), tags)
    for words, tags in (
        (
            "to will would can could should must may might shall i you we they please let's don't didn't doesn't won't "
            "can't cannot couldn't wouldn't shouldn't i'll you'll we'll they'll he'll she'll it'll",
            ("VERB",),
        ),
        (
            "the a an my your his her its our their this that these those of in on for with from new some any no each",
            ("NOUN",),
        ),
        (
            "have has had having is are was were be been being i've you've we've they've he's she's it's",
            ("VBN", "VBD", "ADJ", "VERB"),
        ),
    )
)
_PREFIXES: Final = {"re": "ɹˌi", "un": "ˌʌn", "de": "dˌi", "co": "kˌO"}
# Small words as they are said within a sentence; the dictionary has them as they are said alone.
_WEAK: Final = {"a": "ɐ", "an": "ɐn", "i": "ˌI", "in": "ɪn"}
# Abbreviations that in small letters are words.
_INITIALS: Final = frozenset({"ID", "US"})
_CONTRACTED: Final = {"ll": "əl", "ve": "əv", "d": "d", "re": "əɹ", "m": "m", "t": "t"}
# A longer word is no word, and need not be looked at from all sides.
_LONGEST_WORD: Final = 40
_PARAGRAPHS: Final = re.compile(r"\n\s*\n")
_VOICELESS: Final = "pkfθtʧʃs"


class EnglishPronouncer:
    """Says English as in America or as in Britain. Owned by the prepare thread.

    The dictionary is misaki's, by the makers of Kokoro (Apache-2.0); nothing else of that package is used.
    """

    def __init__(self, *, is_british: bool) -> None:
        self._is_british = is_british
        self._entries = _dictionary("gb" if is_british else "us")
        self._letters = {letter: self._default(letter.upper()) for letter in "abcdefghijklmnopqrstuvwxyz"}

    def pronounce(self, text: str) -> list[SpokenWord]:
        """The words of a text, cut at its spaces, with what is said of each: possibly nothing."""
        words: list[SpokenWord] = []
        for paragraph in _PARAGRAPHS.split(text):
            if words and words[-1].phonemes[-1:] not in MARKS:
                words[-1] = SpokenWord(words[-1].text, f"{words[-1].phonemes}.")
            words += self._paragraph(paragraph)
        return words

    def _paragraph(self, text: str) -> list[SpokenWord]:
        pieces = text.split()
        readings: list[list[str]] = []
        unit = ""
        for piece, following in zip(pieces, [*pieces[1:], ""], strict=False):
            reading = read(piece, following)
            at = next((place for place in range(len(reading), 0, -1) if reading[place - 1] not in MARKS), 0)
            readings.append([*reading[:at], *unit.split(), *reading[at:]])
            unit = owed(piece, following)
        said = iter(self._say([word for reading in readings for word in reading]))
        words: list[SpokenWord] = []
        for piece, reading in zip(pieces, readings, strict=True):
            phonemes = "".join(
                sound if not place or word in MARKS or _opens(reading, place - 1) else f" {sound}"
                for place, word in enumerate(reading)
                if (sound := next(said))
            )
            words.append(SpokenWord(piece, phonemes.strip()))
        return words

    def _say(self, words: list[str]) -> list[str]:
        """Each word's phonemes; marks are their own. From the last to the first: the next sound may change one."""
        said: list[str] = []
        following = ""
        for place in range(len(words) - 1, -1, -1):
            word = words[place]
            previous = words[place - 1].lower() if place else ""
            sound = word if word in MARKS else self._in_context(word, previous, following)
            said.append(sound)
            following = sound or following
        return said[::-1]

    def _in_context(self, word: str, previous: str, following: str) -> str:
        begins = following.lstrip("ˈˌ")[:1]
        # "A" alone is the letter where no word follows.
        is_last = not begins or begins in MARKS
        match word.lower():
            case "the":
                return "ði" if begins and begins in VOWELS else "ðə"
            case "to" if not is_last:
                return "tʊ" if begins in VOWELS else "tə"
            case "a" | "an" | "i" | "in" as small if not is_last and (word != "A" or len(previous) != 1):
                return _WEAK[small]
            case lower:
                return self._word(word, lower, previous)

    def _word(self, word: str, lower: str, previous: str) -> str:
        if word in _INITIALS:
            return self._spelled(lower)
        for form in (word, lower, word.capitalize()):
            if (entry := self._entries.get(form)) is not None:
                return _normal(_chosen(entry, previous))
        if len(word) == 1:
            return self._letters[lower]
        return self._inflected(lower, previous) or self._unknown(word, lower)

    def _inflected(self, word: str, previous: str) -> str:
        """A word of the dictionary with an English ending."""
        for ending, stems in _stems(word):
            for stem in stems:
                if len(stem) > 1 and (entry := self._entries.get(stem) or self._entries.get(stem.capitalize())):
                    return self._with_ending(_normal(_chosen(entry, previous)), ending)
        return ""

    def _with_ending(self, stem: str, ending: str) -> str:
        short_i = "ɪ" if self._is_british else "ᵻ"
        last = stem[-1:]
        match ending:
            case "s":
                return stem + (f"{short_i}z" if last in "szʃʒʧʤ" else "s" if last in _VOICELESS else "z")
            case "ed":
                return stem + (f"{short_i}d" if last in "td" else "t" if last in _VOICELESS else "d")
            case "ing":
                return f"{stem}ɹɪŋ" if self._is_british and last in "əː" else f"{stem}ɪŋ"
            case "er":
                return stem + ("ə" if self._is_british else "əɹ")
            case "ly":
                return stem + ("li" if last != "l" else "i")
            case _:
                return stem + {"ness": "nəs", "less": "ləs", "ful": "fəl"}[ending]

    def _unknown(self, word: str, lower: str) -> str:
        """Letter by letter where it looks like an abbreviation, as two words it is made of, else by the rules."""
        stem, *rests = lower.split("'")
        if rests:
            return self._with_contractions(self._word(word[: len(stem)], stem, ""), rests)
        if (word.isupper() and len(word) < 6) or not set(lower) & set("aeiouy"):
            return self._spelled(lower)
        if len(lower) > _LONGEST_WORD:
            return sound_out(lower, is_british=self._is_british)
        if lower[:2] in _PREFIXES and (rest := self._entries.get(lower[2:])) is not None:
            return _PREFIXES[lower[:2]] + _normal(_chosen(rest, ""))
        for cut in sorted(range(3, len(lower) - 2), key=lambda at: abs(2 * at - len(lower))):
            first, second = self._entries.get(lower[:cut]), self._entries.get(lower[cut:])
            if first is not None and second is not None:
                return _normal(_chosen(first, "")) + _normal(_chosen(second, "")).replace("ˈ", "ˌ")
        return sound_out(lower, is_british=self._is_british)

    def _with_contractions(self, said: str, rests: list[str]) -> str:
        """With what follows each apostrophe."""
        for rest in rests:
            said = (
                self._with_ending(said, "s")
                if rest == "s"
                else said + (_CONTRACTED.get(rest) or self._word(rest, rest, ""))
            )
        return said

    def _spelled(self, letters: str) -> str:
        """The names of the letters, the last of which is the loudest."""
        *names, last = (self._letters[letter] for letter in letters)
        return "".join(name.replace("ˈ", "ˌ") for name in names) + last.replace("ˌ", "ˈ")

    def _default(self, word: str) -> str:
        return _normal(_chosen(self._entries.get(word, ""), ""))


def _opens(reading: list[str], place: int) -> bool:
    """Whether a mark stands before what it belongs to."""
    return reading[place] in "(“" or (place == 0 and reading[place] == '"')


def _dictionary(region: str) -> dict[str, _Entry]:
    """Both files of a region; the one that people have read is right where they differ."""
    folder = resources.files(data)
    entries: dict[str, _Entry] = {}
    for name in (f"{region}_silver.json", f"{region}_gold.json"):
        entries |= json.loads(folder.joinpath(name).read_text(encoding="utf-8"))
    return entries


def _chosen(entry: _Entry, previous: str) -> str:
    if isinstance(entry, str):
        return entry
    tags = next((tags for words, tags in _TAGS if previous in words), ())
    return next((said for tag in (*tags, "DEFAULT") if (said := entry.get(tag))), "")


def _normal(phonemes: str) -> str:
    """The symbols that the voices were trained with: a flap is T, a glottal stop t."""
    return phonemes.replace("ɾ", "T").replace("ʔ", "t")


def _stems(word: str) -> list[tuple[str, list[str]]]:
    """The endings that a word may have, with what may stand before each."""
    doubled = word[:-3] if re.search(r"([bdgklmnprtvz])\1(?:ed|er)$", word) else ""
    found = {
        "s": [
            word[:-1],
            *([word[:-2]] if word.endswith("es") else []),
            f"{word[:-3]}y" if word.endswith("ies") else "",
        ],
        "ed": [word[:-1], word[:-2], f"{word[:-3]}y" if word.endswith("ied") else "", doubled],
        "ing": [word[:-3], f"{word[:-3]}e", word[:-4] if re.search(r"([bdgklmnprtvz])\1ing$", word) else ""],
        "er": [word[:-1], word[:-2], f"{word[:-3]}y" if word.endswith("ier") else "", doubled],
        "ly": [word[:-2], f"{word[:-3]}y" if word.endswith("ily") else "", f"{word[:-1]}e"],
        "ness": [word[:-4], f"{word[:-5]}y" if word.endswith("iness") else ""],
        "less": [word[:-4]],
        "ful": [word[:-3]],
    }
    return [
        (ending, stems) for ending, stems in found.items() if word.endswith(ending) and not word.endswith("ss" + ending)
    ]
