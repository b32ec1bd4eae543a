"""From the tokens heard in a window to segments: timestamps among the tokens say where each begins and ends."""

from dataclasses import dataclass
from typing import Any, TypedDict

from mlx_whisper.audio import HOP_LENGTH, N_FRAMES, SAMPLE_RATE
from mlx_whisper.decoding import DecodingResult

from app.core.events import Segment, Word


class Draft(TypedDict):
    """A segment in the form that mlx_whisper's word alignment changes in place."""

    seek: int
    start: float
    end: float
    tokens: list[int]
    words: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Window:
    """Frames that are heard in one go: the first one, and how many of them are the recording's."""

    seek: int
    num_frames: int
    num_positions: int

    @property
    def start_s(self) -> float:
        """Where it begins in the recording."""
        return float(self.seek * HOP_LENGTH / SAMPLE_RATE)

    @property
    def frames_per_position(self) -> int:
        """Timestamps count the encoder's positions, which are 20 ms in every published model."""
        return N_FRAMES // self.num_positions


@dataclass(frozen=True, slots=True)
class Cutting:
    """The segments of a window, and the frame to go on from.

    `is_whole` when nothing is said after the last segment; otherwise what comes after it is heard again.
    """

    drafts: list[Draft]
    next_seek: int
    is_whole: bool


def cut(window: Window, tokens: list[int], first_timestamp: int) -> Cutting:
    """Cut between two timestamps that follow on each other: the end of one segment and the beginning of the next."""
    position_s = window.frames_per_position * HOP_LENGTH / SAMPLE_RATE
    is_time = [token >= first_timestamp for token in tokens]
    is_whole = is_time[-2:] == [False, True]
    ends = [place for place in range(1, len(tokens)) if is_time[place - 1] and is_time[place]]
    window_end = window.seek + window.num_frames
    if not ends:
        end_s = _last_time_s(tokens, first_timestamp, position_s) or window.num_frames * HOP_LENGTH / SAMPLE_RATE
        return Cutting([_draft(window, 0.0, end_s, tokens)], window_end, is_whole)
    last_position = tokens[ends[-1] - 1] - first_timestamp
    if is_whole:
        ends.append(len(tokens))
    pieces = [tokens[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    drafts = [
        _draft(window, (piece[0] - first_timestamp) * position_s, (piece[-1] - first_timestamp) * position_s, piece)
        for piece in pieces
    ]
    next_seek = window_end if is_whole else window.seek + last_position * window.frames_per_position
    return Cutting(drafts, next_seek, is_whole)


def _last_time_s(tokens: list[int], first_timestamp: int, position_s: float) -> float:
    """Where the last timestamp is in the window; 0 where there is none."""
    return next((token - first_timestamp for token in reversed(tokens) if token >= first_timestamp), 0) * position_s


def _draft(window: Window, start_s: float, end_s: float, tokens: list[int]) -> Draft:
    return {
        "seek": window.seek,
        "start": window.start_s + start_s,
        "end": window.start_s + end_s,
        "tokens": tokens,
        "words": [],
    }


def end_of_speech_s(drafts: list[Draft]) -> float | None:
    """Where the last word ends, or the last segment where there are no words; None where there is nothing."""
    words = (word["end"] for draft in reversed(drafts) for word in reversed(draft["words"]))
    return next(words, drafts[-1]["end"] if drafts else None)


def finished(draft: Draft, number: int, text: str, result: DecodingResult, *, has_words: bool) -> Segment:
    """A draft with the numbers of its window's `result`; one that has no length or says nothing is emptied."""
    is_empty = draft["start"] == draft["end"] or not text.strip()
    words = [
        Word(word["word"], float(word["start"]), float(word["end"]), float(word["probability"]))
        for word in ([] if is_empty else draft["words"])
    ]
    return Segment(
        id=number,
        seek=draft["seek"],
        start_s=float(draft["start"]),
        end_s=float(draft["end"]),
        text="" if is_empty else text,
        tokens=[] if is_empty else draft["tokens"],
        temperature=float(result.temperature),
        avg_logprob=float(result.avg_logprob),
        compression_ratio=float(result.compression_ratio),
        no_speech_prob=float(result.no_speech_prob),
        words=words if has_words else None,
    )
