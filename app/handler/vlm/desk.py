"""A conversation with media on its way into a prompt. Runs in the prepare thread."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace

from app.core.conversation import Conversation, Media, MediaKind, Message
from app.errors import InvalidRequest
from app.handler.context import too_long
from app.handler.film import FilmSampling, read_film
from app.handler.lm.sight import place_of
from app.handler.recording import read_recording
from app.handler.vlm.marking import Marking, Markings
from app.handler.vlm.pictures import PictureLimits, frame_pictures, read_picture
from app.handler.vlm.processor import Content, MediaProcessor, Shown
from app.handler.vlm.prompt_media import Placed, SeenMedia
from app.handler.vlm.recent import Recent
from app.handler.vlm.tower import Tower

# Of the media that were prepared last.
_MAX_BYTES: Final = 256 * 2**20
# Where a model takes no films, and is shown pictures of one; as mlx_vlm does it.
_FRAMES: Final = FilmSampling(fps=2.0, min_frames=4, max_frames=16)


@dataclass(frozen=True, slots=True)
class Sense:
    """How a model is shown the media of one kind: the token in whose place a piece of one goes, and its marking."""

    placeholder: int
    marking: Marking


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a model is shown of one medium: a film may be several pictures."""

    shown: tuple[Shown, ...]

    @property
    def nbytes(self) -> int:
        """Of what takes memory."""
        return sum(one.nbytes for one in self.shown)


class MediaDesk:
    """The sight and hearing of a model, in `senses`; `why_not` says of the other kinds why it has none for them."""

    def __init__(
        self,
        processor: MediaProcessor,
        limits: PictureLimits,
        tower: Tower,
        senses: Mapping[MediaKind, Sense],
        why_not: Mapping[MediaKind, str],
    ) -> None:
        self._processor = processor
        self._limits = limits
        self._tower = tower
        self._senses = senses
        self._why_not = why_not
        self._markings = Markings({kind: sense.marking for kind, sense in senses.items()})
        self._kinds = {sense.marking.marker: kind for kind, sense in senses.items()}
        self._marker = re.compile("|".join(map(re.escape, sorted(self._kinds, key=len, reverse=True))))
        self.forget()

    @property
    def kinds(self) -> tuple[MediaKind, ...]:
        """Of the media that it takes."""
        return tuple(kind for kind in ("image", "video", "audio") if self._takes(kind))

    def forget(self) -> None:
        """Remember no medium; may be called by any thread, for what is remembered is replaced as a whole."""
        self._recent: Recent[Pieces] = Recent(_MAX_BYTES)

    def look(self, conversation: Conversation, longest: int | None) -> "DeskLook | None":
        """See `Sight.look`."""
        num_tokens = 0
        shown: list[Shown] = []
        messages: list[Message] = []
        for index, message in enumerate(conversation.messages):
            media: list[Media] = []
            for number, medium in enumerate(message.media):
                pieces = self._pieces(medium, place_of(medium, index, number))
                shown += pieces.shown
                num_tokens += sum(len(piece.tokens) for piece in pieces.shown)
                # The next ones would take time and memory for nothing.
                if longest is not None and num_tokens > longest:
                    raise too_long(longest, f"at least {num_tokens}", "messages")
                media += [replace(medium, kind=piece.kind, data=b"") for piece in pieces.shown]
            messages.append(replace(message, media=tuple(media)) if media else message)
        if not shown:
            return None
        return DeskLook(replace(conversation, messages=self._markings.mark(messages)), shown, self)

    def expanded(self, rendered: str, shown: list[Shown]) -> str:
        """See `Look.expanded`."""
        markers = self._marker.findall(rendered)
        kinds = [self._kinds[marker] for marker in markers]
        if len(kinds) < len(shown):
            what = "images" if all(one.kind == "image" for one in shown) else "media"
            raise InvalidRequest(
                f"The model's chat template shows {len(kinds)} of the {len(shown)} {what}; put them into messages of "
                "the user.",
                param="messages",
            )
        for place, marker in enumerate(markers):
            if place >= len(shown) or shown[place].kind != kinds[place]:
                raise _spelled(marker)
        texts = iter(one.text for one in shown)
        return self._marker.sub(lambda _: next(texts), rendered)

    def placed(self, shown: list[Shown], prompt: list[int]) -> SeenMedia:
        """See `Look.placed`."""
        markers = {sense.placeholder: sense.marking.marker for sense in self._senses.values()}
        places: list[int] = np.flatnonzero(np.isin(prompt, list(markers))).tolist()
        found: list[Placed] = []
        for one in shown:
            count = one.span.count(one.placeholder)
            mine, places = places[:count], places[count:]
            if not mine or prompt[mine[0] : mine[0] + len(one.span)] != one.span:
                raise _spelled(markers[prompt[mine[0]] if mine else one.placeholder])
            found.append(Placed(one, mine[0]))
        if places:
            raise _spelled(markers[prompt[places[0]]])
        if found[-1].stop == len(prompt):
            raise InvalidRequest(f"The prompt ends with {_NAMES[shown[-1].kind]}; put text after it.", param="messages")
        return SeenMedia(self._tower, found)

    def _takes(self, kind: MediaKind) -> bool:
        return kind in self._senses or (kind == "video" and "image" in self._senses)

    def _pieces(self, media: Media, place: str) -> Pieces:
        if not self._takes(media.kind):
            why = self._why_not[media.kind]
            raise InvalidRequest(f"'{place}' ({media.kind}) cannot be used: {why}; leave it out.", param=place)
        key = hashlib.sha256(media.data).digest() + f"{media.kind} {media.detail}".encode()
        recent = self._recent
        pieces = recent.get(key)
        if pieces is None:
            try:
                pieces = Pieces(tuple(self._show(kind, content) for kind, content in self._contents(media, place)))
            # It has taken the first one: it is this one that it does not like, its shape for instance.
            except ValueError as error:
                raise InvalidRequest(f"'{place}' is not taken by the model: {error}", param=place) from error
            recent.put(key, pieces)
        return pieces

    def _show(self, kind: MediaKind, content: Content) -> Shown:
        sense = self._senses[kind]
        return self._processor.show(kind, content, sense.marking.marker, sense.placeholder)

    def _contents(self, media: Media, place: str) -> list[tuple[MediaKind, Content]]:
        """What a file holds, of the kinds that the model takes. Errors: InvalidRequest."""
        most = self._limits.file.max_pixels
        match media.kind:
            case "image":
                return [("image", read_picture(media, place, self._limits))]
            case "video" if "video" in self._senses:
                return [("video", read_film(media.data, self._processor.sampling, most, place))]
            case "video":
                film = read_film(media.data, _FRAMES, most, place)
                return [("image", picture) for picture in frame_pictures(film, place, self._limits)]
            case "audio":
                longest_s, rate = self._processor.longest_recording_s, self._processor.sample_rate
                return [("audio", read_recording(media.data, rate, longest_s, place))]


_NAMES: Final[dict[MediaKind, str]] = {"image": "a picture", "video": "a film", "audio": "a recording"}


@dataclass(frozen=True, slots=True)
class DeskLook:
    """See `Look`."""

    conversation: Conversation
    shown: list[Shown]
    desk: MediaDesk

    def expanded(self, rendered: str) -> str:
        """See `Look.expanded`."""
        return self.desk.expanded(rendered, self.shown)

    def placed(self, prompt: list[int]) -> SeenMedia:
        """See `Look.placed`."""
        return self.desk.placed(self.shown, prompt)


def _spelled(marker: str) -> InvalidRequest:
    return InvalidRequest(
        f"The messages spell '{marker}', which is how this model marks a medium; leave it out of the text.",
        param="messages",
    )
