"""Reads what a model writes while it comes: answer, reasoning and calls, in any family's markup."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from app.text.calls import Calls
from app.text.family import Family, Region
from app.text.json_calls import read_arguments
from app.text.markup import markup_of
from app.text.offered import OfferedTool
from app.text.pieces import Content, Piece, Thought
from app.text.prose import Prose
from app.text.source import SPACE, Broken, Cut, Markers, Reading, Source

_BRACKETS: Final = re.compile(r"[}\]]+")
_MAX_HEADER: Final = 256
_MAX_REPLAYED: Final = 1 << 20


class MarkupReader:
    """Reads one answer; what comes out depends on the whole text only, not on how it was cut.

    `special` are the markers that are one token in the model's vocabulary: only that token is the marker then, and the
    same characters spelled out are text. `starts_in_reasoning` says whether the prompt has opened the reasoning, None
    that nobody knows. Not thread-safe: it belongs to the thread that pushes.
    """

    def __init__(
        self,
        family: Family,
        tools: Sequence[OfferedTool] = (),
        *,
        starts_in_reasoning: bool | None,
        special: frozenset[str] = frozenset(),
    ) -> None:
        self._pieces: list[Piece] = []
        self._source = Source(special)
        self._calls = Calls(self._source, tools, self._pieces)
        self._markup = markup = markup_of(family, has_tools=bool(tools))
        self._content = Prose(Content, self._pieces)
        self._thought = Prose(Thought, self._pieces)
        self.is_reasoning = bool(starts_in_reasoning) and family.reasoning is not None
        if self.is_reasoning:
            self._thought.cut()
        self._may_be_begun = bool(markup.bare_regions or (markup.frame and markup.frame.begun))
        self._num_replayed = 0
        self._idle: Markers | None = None
        self._reading = self._read()
        next(self._reading)

    def push(self, text: str, *, is_special: bool = False) -> list[Piece]:
        """Take more text; gives what is certain now. `is_special` says that it is one special token."""
        if self._idle and not is_special and text and text[-1] not in SPACE and not self._idle.begun.search(text):
            return [self._prose.kind(text, self._source.pass_by(text))]
        self._source.push(text, is_special=is_special)
        next(self._reading)
        return self._taken()

    def finish(self) -> list[Piece]:
        """The text has ended; gives everything that was held back."""
        self._source.is_ended = True
        for _ in self._reading:
            pass
        self._prose.finish()
        return self._taken()

    @property
    def _prose(self) -> Prose:
        return self._thought if self.is_reasoning else self._content

    def _taken(self) -> list[Piece]:
        self._calls.flush()
        pieces = self._pieces.copy()
        self._pieces.clear()
        return pieces

    def _read(self) -> Reading[None]:
        source, markers = self._source, self._markup.markers
        while True:
            index, marker = markers.find(source)
            if self._may_be_begun and not self.is_reasoning and self._pass_space(index):
                self._may_be_begun = False
                yield from self._read_begun()
                continue
            if index > source.at:
                self._prose.add(source.text[source.at : index], source.place)
                source.at = index
            if marker:
                yield from self._read_marker(marker)
            elif source.is_ended:
                return
            else:
                is_idle = index == len(source.text) and self._prose.is_flowing and not self._may_be_begun
                self._idle = markers if is_idle else None
                yield
                self._idle = None

    def _pass_space(self, until: int) -> bool:
        """Pass white space; gives whether other text comes behind it, before the index `until`."""
        source = self._source
        text = source.text[source.at : until]
        num_spaces = len(text) - len(text.lstrip(SPACE))
        self._prose.add(text[:num_spaces], source.place)
        source.at += num_spaces
        return num_spaces < len(text)

    def _read_begun(self) -> Reading[None]:
        """At the start of the answer: read what needs no marker there."""
        for begun in self._markup.frame.begun if self._markup.frame else ():
            if not (yield from self._source.sees(begun)):
                continue
            if (yield from self._attempt(self._read_frame, self._markup.frame_ends)):
                return
        yield from self._read_regions(self._markup.bare_regions, "")

    def _read_marker(self, marker: str) -> Reading[None]:
        frame = self._markup.frame
        if frame and marker in frame.opens and (yield from self._attempt(self._read_frame, self._markup.frame_ends)):
            return
        if (yield from self._read_regions(self._markup.regions.get(marker, ()), marker)):
            return
        place = self._source.place
        self._source.at += len(marker)
        self._pass_marker(marker, place)

    def _pass_marker(self, marker: str, place: int) -> None:
        """A marker that opens no call: of reasoning, or noise, or text after all."""
        markup, prose = self._markup, self._prose
        is_certain = bool(self._source.special and self._source.tokens_in(marker))
        if marker in markup.closes and (self.is_reasoning or is_certain or prose.before != "text"):
            self._turn_to_reasoning(is_reasoning=False)
        elif marker in markup.opens and self._may_open(is_certain=is_certain):
            self._turn_to_reasoning(is_reasoning=True)
        elif marker in markup.noise and is_certain:
            prose.cut()
        elif marker in markup.noise:
            prose.add_noise(marker, place)
        else:
            prose.add(marker, place)

    def _may_open(self, *, is_certain: bool) -> bool:
        if self.is_reasoning:
            return not self._thought.has_text
        return (
            is_certain
            or self._content.before == "start"
            or (self._content.before == "markup" and not self._markup.opens_at_start_only)
        )

    def _turn_to_reasoning(self, *, is_reasoning: bool) -> None:
        self._prose.cut()
        self.is_reasoning = is_reasoning
        self._prose.cut()

    def _read_regions(self, regions: Sequence[Region], marker: str) -> Reading[bool]:
        for region in regions:

            def read(region: Region = region) -> Reading[None]:
                self._source.at += len(marker)
                close = region.close.strip(SPACE)
                yield from region.body.read(self._source, self._calls, close)
                if close:
                    yield from _read_close(self._source, close)

            if (yield from self._attempt(read, self._markup.ends_of(region), is_marked=bool(marker))):
                return True
        return False

    def _attempt(
        self, read: Callable[[], Reading[None]], ends: Sequence[str], *, is_marked: bool = True
    ) -> Reading[bool]:
        """Read what may be markup; gives whether it was, else it is still to be read.

        A call that had started and proves to be none is still to be read, too. By `ends` a call that was ended wrongly
        differs from one in which the text has ended.
        """
        source, calls = self._source, self._calls
        source.mark()
        start = source.place
        calls.begin(is_any_name_allowed=is_marked and not self.is_reasoning)
        is_markup = is_cut = False
        place = start
        try:
            yield from read()
            is_markup = True
        except Broken:
            pass
        except Cut:
            is_cut = calls.is_started and not any(end in source.read_since_mark() for end in ends)
        if is_cut:
            source.at = len(source.text)
        elif not is_markup:
            place = source.place
            source.rewind(calls.abandon())
            self._num_replayed += place - source.place
        source.release()
        if is_markup or is_cut or calls.num_ended:
            self._prose.cut()
            self._may_be_begun = self._may_be_begun and not calls.num_ended
            return True
        return self._pass_unread(place - start)

    def _pass_unread(self, length: int) -> bool:
        """Pass what was no markup as text, if too much has been read again already; gives whether it did so."""
        if self._num_replayed <= _MAX_REPLAYED:
            return False
        source = self._source
        self._prose.add(source.text[source.at : source.at + length], source.place)
        source.at += length
        return True

    def _read_frame(self) -> Reading[None]:
        frame, source = self._markup.frame, self._source
        if frame is None:
            raise Broken
        while (index := source.text.find(frame.end, source.at)) < 0:
            _check_header(source.text[source.at :], frame.chars, _MAX_HEADER + len(frame.end))
            if source.is_ended:
                raise Cut
            yield
        _check_header(source.text[source.at : index], frame.chars, _MAX_HEADER)
        found = frame.header.fullmatch(source.text, source.at, index)
        if found is None:
            raise Broken
        source.at = index + len(frame.end)
        groups = found.groupdict()
        recipient = groups.get("recipient")
        name = groups.get("call") or (recipient if recipient and self._calls.is_offered(recipient) else None)
        if frame.is_for_offered and recipient and not name:
            raise Broken
        if name and frame.has_calls:
            yield from self._read_message_call(name)
        else:
            self._turn_to_reasoning(is_reasoning=bool(groups.get("thought")))

    def _read_message_call(self, name: str) -> Reading[None]:
        if not self._markup.has_tools:
            raise Broken
        calls = self._calls
        tool = calls.accept(name)
        yield from read_arguments(self._source, calls.write, lambda: calls.start(tool.name), "")
        calls.end()
        self._turn_to_reasoning(is_reasoning=False)


def _read_close(source: Source, close: str) -> Reading[None]:
    """Read the marker after calls if it is there, and brackets too many before it."""
    place = source.place
    yield from source.skip_space()
    yield from source.match(_BRACKETS)
    yield from source.skip_space()
    if not (yield from source.take(close)):
        source.rewind(place)


def _check_header(header: str, chars: re.Pattern[str], longest: int) -> None:
    if len(header) > longest or (header and not chars.fullmatch(header)):
        raise Broken
