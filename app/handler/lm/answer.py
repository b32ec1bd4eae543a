"""A row's text as events: thought, calls and answer told apart, stop strings matched on the answer alone."""

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.events import (
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from app.settings.types import ReasoningMode
from app.text.family import Family
from app.text.offered import OfferedTool
from app.text.pieces import CallArguments, CallEnded, CallStarted, Content, Piece, Thought
from app.text.reader import MarkupReader
from app.text.stops import StopMatcher

AnswerEvent = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | ToolCallEnded

# What a thought stands between in an answer that is not separate from it, whatever the model itself writes.
_INLINE_MARKERS = ("<think>\n", "\n</think>\n\n")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the text of a request's answers is to be read.

    `special` are the markers that are one token each, and `special_tokens` these tokens.
    """

    family: Family
    tools: tuple[OfferedTool, ...] = ()
    starts_in_reasoning: bool | None = None
    special: frozenset[str] = frozenset()
    special_tokens: frozenset[int] = frozenset()
    mode: ReasoningMode = "separate"
    is_parallel: bool = True

    def reader(self) -> MarkupReader:
        """A reader at the start of an answer."""
        return MarkupReader(self.family, self.tools, starts_in_reasoning=self.starts_in_reasoning, special=self.special)


class Answer:
    """The events of one choice. Owned by the worker's main thread."""

    def __init__(self, choice: int, stops: tuple[str, ...], reading: Reading | None, *, has_logprobs: bool) -> None:
        self._choice = choice
        self._stops = StopMatcher(stops)
        self._reading = reading
        self._reader = reading.reader() if reading is not None else None
        self._logprobs = _TokenLine() if has_logprobs else None
        self._num_calls = 0
        self._is_inline_open = False
        self.has_called = False

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that has ended the answer."""
        return self._stops.matched

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted: a stop string was met, or the only call is made."""
        is_called = self.has_called and self._reading is not None and not self._reading.is_parallel
        return is_called or self._stops.matched is not None

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token is a thought, as far as is known."""
        return self._reader is not None and self._reader.is_reasoning

    def take(self, text: str, logprob: TokenLogprob | None, *, is_special: bool = False) -> list[AnswerEvent]:
        """The events that a token's text makes certain."""
        if self._logprobs is not None and logprob is not None:
            self._logprobs.take(text, logprob)
        if self._reader is None:
            return self._text(text)
        return self._events(self._reader.push(text, is_special=is_special)) if text else []

    def finish(self, text: str) -> list[AnswerEvent]:
        """The last text has come; the events of what was held back."""
        events: list[AnswerEvent] = []
        if not self.is_over:
            events += self._text(text) if self._reader is None else self._events(self._last(self._reader, text))
        if self._stops.matched is None:
            events += self._released()
        events += self._close_inline()
        return events if self._logprobs is None else self._with_last_logprobs(events, self._logprobs)

    def _last(self, reader: MarkupReader, text: str) -> list[Piece]:
        return [*(reader.push(text) if text else []), *reader.finish()]

    def _text(self, text: str) -> list[AnswerEvent]:
        """Text that nothing has to be looked for in but stop strings."""
        if self._logprobs is not None:
            self._logprobs.place(text)
        return self._told(self._stops.push(text))

    def _events(self, pieces: Sequence[Piece]) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        for piece in pieces:
            if self._stops.matched is not None:
                break
            match piece:
                case Content(text, start):
                    if self._logprobs is not None:
                        self._logprobs.place(text, start)
                    events += self._close_inline()
                    events += self._told(self._stops.push(text))
                case Thought(text):
                    events += self._released()
                    events += self._thought(text)
                case _:
                    events += self._call(piece)
            if self.is_over:
                break
        return events

    def _call(self, piece: CallStarted | CallArguments | CallEnded) -> list[AnswerEvent]:
        match piece:
            case CallStarted(name):
                before = [*self._released(), *self._close_inline()]
                self._num_calls += 1
                call_id = f"call_{secrets.token_hex(12)}"
                return [*before, ToolCallStarted(self._num_calls - 1, call_id, name, self._choice)]
            case CallArguments(fragment):
                return [ToolCallDelta(self._num_calls - 1, fragment, self._choice)]
            case CallEnded():
                self.has_called = True
                return [ToolCallEnded(self._num_calls - 1, self._choice)]

    def _thought(self, text: str) -> list[AnswerEvent]:
        match self._reading.mode if self._reading is not None else "separate":
            case "separate":
                return [ReasoningDelta(text, self._choice)]
            case "inline":
                opening = "" if self._is_inline_open else _INLINE_MARKERS[0]
                self._is_inline_open = True
                return [TextDelta(opening + text, self._choice, None if self._logprobs is None else [])]
            case "strip":
                return []

    def _close_inline(self) -> list[AnswerEvent]:
        if not self._is_inline_open:
            return []
        self._is_inline_open = False
        return [TextDelta(_INLINE_MARKERS[1], self._choice, None if self._logprobs is None else [])]

    def _released(self) -> list[AnswerEvent]:
        """The text that might have been the start of a stop string, and was none."""
        return self._told(self._stops.finish())

    def _told(self, text: str) -> list[AnswerEvent]:
        if not text:
            return []
        logprobs = self._logprobs.release(len(text)) if self._logprobs is not None else None
        return [TextDelta(text, self._choice, logprobs)]

    def _with_last_logprobs(self, events: list[AnswerEvent], line: "_TokenLine") -> list[AnswerEvent]:
        """An answer without text that was asked for log-probabilities has an empty list of them."""
        rest = line.rest(has_markup=self._reader is not None) if self._stops.matched is None else []
        if rest or not line.has_told:
            return [*events, TextDelta("", self._choice, rest)]
        return events


class _TokenLine:
    """Log-probabilities on their way out: each leaves with the first character of the answer that its token made.

    Offsets are in characters: of the raw text, and of the answer.
    """

    def __init__(self) -> None:
        self._raw = 0
        self._placed = 0
        self._told = 0
        self._tokens: deque[tuple[int, int, TokenLogprob]] = deque()
        self._answer: deque[tuple[int, TokenLogprob]] = deque()
        self.has_told = False

    def take(self, text: str, logprob: TokenLogprob) -> None:
        """A token has come. One that only begins a character belongs to that character."""
        start = self._raw
        self._raw += len(text)
        self._tokens.append((start, max(self._raw, start + 1), logprob))

    def place(self, text: str, start: int | None = None) -> None:
        """The raw text from `start` on belongs to the answer."""
        begin = self._placed if start is None else start
        end = begin + len(text)
        while self._tokens and self._tokens[0][0] < end:
            first, last, logprob = self._tokens.popleft()
            if last > begin:
                self._answer.append((self._placed + max(0, first - begin), logprob))
        self._placed += len(text)

    def release(self, num_characters: int) -> list[TokenLogprob]:
        """The tokens of the next characters of the answer."""
        self._told += num_characters
        self.has_told = True
        released: list[TokenLogprob] = []
        while self._answer and self._answer[0][0] < self._told:
            released.append(self._answer.popleft()[1])
        return released

    def rest(self, *, has_markup: bool) -> list[TokenLogprob]:
        """What is left when the answer has ended; beside markup, tokens without text are a part of that."""
        rest = [logprob for _, logprob in self._answer]
        return rest if has_markup else rest + [logprob for _, _, logprob in self._tokens]
