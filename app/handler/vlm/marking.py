"""Where a conversation's pictures are, in the way in which the model's chat template is told.

Found out when the model loads, by rendering small conversations. Runs in the prepare thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from app.core.conversation import Conversation, Message, Tool, ToolCall, ToolUse
from app.errors import InvalidRequest
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.lm.sight import PICTURE_PLACE

_ASKED: Final = Message("user", f"zbefore{PICTURE_PLACE}zafter")
_CALLED: Final = (
    Message("user", "zuser"),
    Message("assistant", "", tool_calls=(ToolCall("zid000001", "zfunction", "{}"),)),
    Message("tool", f"zresult{PICTURE_PLACE}", tool_call_id="zid000001"),
)


@dataclass(frozen=True, slots=True)
class Marking:
    """`marker` stands for a picture in a rendered prompt, `place` in a message's text before that.

    Where the template does not show the pictures of a tool's result, they follow it in a message of the user.
    """

    marker: str
    place: str
    shows_results: bool = True

    def mark(self, messages: list[Message]) -> list[Message]:
        """The messages with `place` in their texts wherever a picture is."""
        return [*self._marked(messages)]

    def _marked(self, messages: list[Message]) -> Iterator[Message]:
        num_owed = 0
        for message in messages:
            is_moved = message.role == "tool" and not self.shows_results
            if num_owed and not is_moved:
                yield Message("user", self.place * num_owed)
                num_owed = 0
            if is_moved:
                num_owed += len(message.media)
                yield replace(message, media=())
            else:
                yield _with_places(message, self.place)
        if num_owed:
            yield Message("user", self.place * num_owed)


def find_marking(template: ChatTemplate, markers: list[str]) -> Marking:
    """How the template writes a picture; one that knows none is given the first marker as a piece of the text."""
    shown = _shown(template, Conversation([_ASKED]))
    marker = next((marker for marker in markers if marker in shown), None)
    if marker is None or "zbefore" not in shown or "zafter" not in shown:
        return Marking(markers[0], markers[0])
    called = _shown(template, Conversation([*_CALLED], ToolUse((Tool("zfunction", "zdescription"),))))
    return Marking(marker, PICTURE_PLACE, shows_results="zresult" in called and marker in called)


def _shown(template: ChatTemplate, conversation: Conversation) -> str:
    try:
        return template.render(conversation)
    except InvalidRequest:
        return ""


def _with_places(message: Message, place: str) -> Message:
    if not message.media:
        return message
    pieces: list[str] = []
    done = 0
    for media in message.media:
        pieces += [message.content[done : media.position], place]
        done = media.position
    return replace(message, content="".join([*pieces, message.content[done:]]), media=())
