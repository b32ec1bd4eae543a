"""Pictures in a prompt, as the parts that are made for text meet them; how they are seen is the vision handler's."""

import re
import secrets
from collections.abc import Callable
from typing import Final, Protocol

import mlx.core as mx

from app.core.conversation import Conversation, Media, MediaKind
from app.errors import InvalidRequest

# What stands in a message's text where a medium is begins with this. No client can write it.
PLACE_HEAD: Final = f"\ufdd0{secrets.token_hex(8)}"
MEDIA_PLACES: Final[dict[MediaKind, str]] = {
    "image": f"{PLACE_HEAD}image\ufdd1",
    "video": f"{PLACE_HEAD}video\ufdd1",
    "audio": f"{PLACE_HEAD}audio\ufdd1",
}
# Splits a text at them, and gives their kinds between its pieces.
MEDIA_PLACE: Final = re.compile(f"{PLACE_HEAD}(image|video|audio)\ufdd1")


class PromptPictures(Protocol):
    """The pictures of one prompt, at their places among its tokens. Owned by the worker's main thread."""

    @property
    def position_shift(self) -> int:
        """What is added to the place of each token after the prompt: a picture may count for less than its tokens."""
        ...

    @property
    def num_whole(self) -> int:
        """How many tokens from the prompt's first on have to be fed in one pass, 0 where it may be cut anywhere."""
        ...

    def keys(self, tokens: list[int]) -> list[int]:
        """The prompt's tokens, and any after them, with each picture's replaced by what only that picture has."""
        ...

    def look_on(self, tokens: list[int], start: int) -> bool:
        """Look at the next picture that is needed to feed `tokens` from `start` on; whether there was one."""
        ...

    def forward(self, start: int) -> Callable[..., mx.array]:
        """What runs tokens from `start` on through the model: called as a model is, with tokens and `cache`."""
        ...

    def forget(self) -> None:
        """Let go of what was seen; `look_on` brings it back."""
        ...


class Look(Protocol):
    """The pictures of one conversation, on the way into its prompt. Owned by the prepare thread."""

    @property
    def conversation(self) -> Conversation:
        """The same conversation with something in its texts where the pictures are, for the chat template."""
        ...

    def expanded(self, rendered: str) -> str:
        """The prompt's text with as many tokens for each picture as it takes. Errors: InvalidRequest."""
        ...

    def placed(self, prompt: list[int]) -> PromptPictures:
        """The pictures at their places in the prompt. Errors: InvalidRequest."""
        ...


class Sight(Protocol):
    """What a model sees. Owned by the prepare thread."""

    def look(self, conversation: Conversation, longest: int | None) -> Look | None:
        """Prepare a conversation's pictures, None where there are none.

        Errors: InvalidRequest, ContextLengthExceeded at once where they alone have more than `longest` tokens.
        """
        ...


def place_of(media: Media, index: int, number: int) -> str:
    """What the client calls the medium `number` of a message."""
    return media.place or f"messages[{index}].{media.kind}[{number}]"


class Blindness:
    """The sight of a model that sees nothing, and `why`."""

    def __init__(self, why: str = "this model takes text only; choose one that takes this") -> None:
        self._why = why

    def look(self, conversation: Conversation, longest: int | None) -> None:
        """Errors: InvalidRequest where there is anything to see or hear."""
        for index, message in enumerate(conversation.messages):
            for number, media in enumerate(message.media):
                place = place_of(media, index, number)
                raise InvalidRequest(f"'{place}' ({media.kind}) cannot be used: {self._why}.", param=place)
