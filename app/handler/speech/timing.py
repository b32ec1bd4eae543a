"""Where the words, phonemes and visemes of a segment are in its audio."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.core.events import SpeechTimings, TimedText, TimedViseme
from app.handler.speech.script import PAUSES, PlacedWord, Segment
from app.handler.speech.visemes import viseme_of

PAUSE = "sil"
# Marks that are no sounds of their own: those of stress belong to the next phoneme, those of length to the one before.
_BEFORE_A_PHONEME = frozenset("ˈˌ")
_AFTER_A_PHONEME = frozenset("ːʰʲ\u0303\u0329\u032a")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment begins in the whole audio, and how long half a frame is; in samples."""

    start: int
    half_frame: int
    sample_rate: int

    def seconds(self, half_frames: int) -> float:
        """The time at so many half frames after the segment's beginning."""
        return (self.start + half_frames * self.half_frame) / self.sample_rate


def time_segment(segment: Segment, frames: Sequence[int], place: Place) -> SpeechTimings:
    """The timings of a segment, from the frames of silence before it, of each of its phonemes, and of silence after.

    Half of the space between two words belongs to each; a word lasts until the next begins.
    """
    # The place of phoneme i is from ends[i] to ends[i + 1], in half frames.
    ends = list(accumulate(2 * count for count in frames))
    units = _units(segment.phonemes, ends)
    phonemes = [TimedText(text, place.seconds(start), place.seconds(end)) for text, start, end in units]
    starts = [0, *(_middle(ends, before.end, after.start) for before, after in _pairs(segment)), ends[-1]]
    words = [
        TimedText(word.text, place.seconds(start), place.seconds(end))
        for word, start, end in zip(segment.words, starts, starts[1:], strict=False)
    ]
    return SpeechTimings(words, phonemes, _visemes(phonemes))


def _pairs(segment: Segment) -> list[tuple[PlacedWord, PlacedWord]]:
    return list(zip(segment.words, segment.words[1:], strict=False))


def _middle(ends: list[int], end: int, start: int) -> int:
    """The middle of what is between two words."""
    return (ends[end] + ends[start]) // 2


def _units(phonemes: str, ends: list[int]) -> list[tuple[str, int, int]]:
    """The sounds and the pauses in half frames, without a gap from 0 to the end."""
    units: list[tuple[str, int, int]] = [(PAUSE, 0, ends[0])]
    # What belongs to the next sound: its stress, and from where on.
    mark, start = "", ends[0]
    for symbol, begins, finishes in zip(phonemes, ends, ends[1:], strict=False):
        text, since, _ = units[-1]
        if symbol in _BEFORE_A_PHONEME:
            mark += symbol
        elif symbol == " " and text != PAUSE and not mark:
            start = (begins + finishes) // 2
            units[-1] = (text, since, start)
        elif symbol in PAUSES and text == PAUSE:
            mark, start = "", finishes
            units[-1] = (PAUSE, since, finishes)
        elif symbol in _AFTER_A_PHONEME and text != PAUSE:
            start = finishes
            units[-1] = (text + symbol, since, finishes)
        else:
            units.append((PAUSE if symbol in PAUSES else mark + symbol, start, finishes))
            mark, start = "", finishes
    text, since, _ = units[-1]
    if text == PAUSE:
        return [*units[:-1], (PAUSE, since, ends[-1])]
    return [*units, (PAUSE, start, ends[-1])]


def _visemes(phonemes: Sequence[TimedText]) -> list[TimedViseme]:
    """One for each change of the mouth."""
    visemes: list[TimedViseme] = []
    for phoneme in phonemes:
        viseme = viseme_of(phoneme.text) if phoneme.text != PAUSE else 0
        if visemes and visemes[-1].viseme == viseme:
            visemes[-1] = TimedViseme(viseme, visemes[-1].start_s, phoneme.end_s)
        else:
            visemes.append(TimedViseme(viseme, phoneme.start_s, phoneme.end_s))
    return visemes
