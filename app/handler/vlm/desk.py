"""A conversation with pictures on its way into a prompt. Runs in the prepare thread."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace

from app.core.conversation import Conversation, Media
from app.errors import InvalidRequest
from app.handler.lm.sight import place_of
from app.handler.vlm.marking import Marking
from app.handler.vlm.pictures import PictureLimits, read_picture
from app.handler.vlm.processor import Picture, PictureProcessor
from app.handler.vlm.prompt_pictures import Placed, SeenPictures
from app.handler.vlm.recent import Recent
from app.handler.vlm.tower import VisionTower

# Of the pictures that were prepared last.
_MAX_BYTES: Final = 256 * 2**20


class PictureDesk:
    """The sight of a model that sees pictures."""

    def __init__(
        self, processor: PictureProcessor, marking: Marking, limits: PictureLimits, tower: VisionTower
    ) -> None:
        self._processor = processor
        self._marking = marking
        self._limits = limits
        self._tower = tower
        self._recent: Recent[Picture] = Recent(_MAX_BYTES)

    def look(self, conversation: Conversation) -> "DeskLook | None":
        """See `Sight.look`."""
        pictures = [
            self._picture(media, place_of(media, index, number))
            for index, message in enumerate(conversation.messages)
            for number, media in enumerate(message.media)
        ]
        if not pictures:
            return None
        messages = self._marking.mark(conversation.messages)
        return DeskLook(replace(conversation, messages=messages), pictures, self)

    def marker(self) -> str:
        """What stands for a picture in a rendered prompt."""
        return self._marking.marker

    def placed(self, pictures: list[Picture], prompt: list[int]) -> SeenPictures:
        """See `Look.placed`."""
        places = np.flatnonzero(np.array(prompt) == self._processor.placeholder).tolist()
        found: list[Placed] = []
        for picture in pictures:
            count = picture.span.count(self._processor.placeholder)
            mine, places = places[:count], places[count:]
            if not mine or prompt[mine[0] : mine[0] + len(picture.span)] != picture.span:
                raise _spelled(self._marking.marker)
            found.append(Placed(picture, mine[0]))
        if places:
            raise _spelled(self._marking.marker)
        if found[-1].stop == len(prompt):
            raise InvalidRequest("The prompt ends with a picture; put text after it.", param="messages")
        return SeenPictures(self._tower, found)

    def _picture(self, media: Media, place: str) -> Picture:
        if media.kind != "image":
            raise InvalidRequest(
                f"'{place}' cannot be used: this server shows models text and images; send a video's frames as images, "
                "and speech through /v1/audio/transcriptions.",
                param=place,
            )
        key = hashlib.sha256(media.data).digest() + media.detail.encode()
        picture = self._recent.get(key)
        if picture is None:
            image = read_picture(media, place, self._limits)
            try:
                picture = self._processor.show(image, self._marking.marker)
            # It has taken the first picture: it is this one that it does not like, its shape for instance.
            except ValueError as error:
                raise InvalidRequest(f"'{place}' is not taken by the model: {error}", param=place) from error
            self._recent.put(key, picture)
        return picture


@dataclass(frozen=True, slots=True)
class DeskLook:
    """See `Look`."""

    conversation: Conversation
    pictures: list[Picture]
    desk: PictureDesk

    def expanded(self, rendered: str) -> str:
        """See `Look.expanded`."""
        texts = rendered.split(self.desk.marker())
        if len(texts) - 1 < len(self.pictures):
            raise InvalidRequest(
                f"The model's chat template shows {len(texts) - 1} of the {len(self.pictures)} images; put them into "
                "messages of the user.",
                param="messages",
            )
        if len(texts) - 1 > len(self.pictures):
            raise _spelled(self.desk.marker())
        return texts[0] + "".join(picture.text + text for picture, text in zip(self.pictures, texts[1:], strict=True))

    def placed(self, prompt: list[int]) -> SeenPictures:
        """See `Look.placed`."""
        return self.desk.placed(self.pictures, prompt)


def _spelled(marker: str) -> InvalidRequest:
    return InvalidRequest(
        f"The messages spell '{marker}', which is how this model marks an image; leave it out of the text.",
        param="messages",
    )
