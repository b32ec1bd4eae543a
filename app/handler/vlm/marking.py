"""Where a conversation's media are, in the way in which the model's chat template is told.

Found out when the model loads, by rendering small conversations. Runs in the prepare thread.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from app.core.conversation import Conversation, MediaKind, Message, Tool, ToolCall, ToolUse
from app.errors import InvalidRequest
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.lm.sight import MEDIA_PLACES

_CALL: Final = ToolCall("zid000001", "zfunction", "{}")


@dataclass(frozen=True, slots=True)
class Marking:
    """`marker` stands for a medium in a rendered prompt, `place` in a message's text before that.

    Where the template does not show those of a tool's result, they follow it in a message of the user.
    """

    marker: str
    place: str
    shows_results: bool = True


class Markings:
    """How a template is told of the media of each kind that the model takes."""

    def __init__(self, markings: Mapping[MediaKind, Marking]) -> None:
        self._markings = markings
        # Of several kinds, or they would change their order.
        self._shows_results = all(marking.shows_results for marking in markings.values())

    def mark(self, messages: list[Message]) -> list[Message]:
        """The messages with `place` in their texts wherever a medium is."""
        return [*self._marked(messages)]

    def _marked(self, messages: list[Message]) -> Iterator[Message]:
        owed = ""
        for message in messages:
            is_moved = message.role == "tool" and not self._shows_results
            if owed and not is_moved:
                yield Message("user", owed)
                owed = ""
            if is_moved:
                owed += "".join(self._markings[media.kind].place for media in message.media)
                yield replace(message, media=())
            else:
                yield self._with_places(message)
        if owed:
            yield Message("user", owed)

    def _with_places(self, message: Message) -> Message:
        if not message.media:
            return message
        pieces: list[str] = []
        done = 0
        for media in message.media:
            pieces += [message.content[done : media.position], self._markings[media.kind].place]
            done = media.position
        return replace(message, content="".join([*pieces, message.content[done:]]), media=())


def find_marking(template: ChatTemplate, kind: MediaKind, markers: list[str]) -> Marking:
    """How the template writes a medium; one that knows none is given the first marker as a piece of the text."""
    place = MEDIA_PLACES[kind]
    shown = _shown(template, Conversation([Message("user", f"zbefore{place}zafter")]))
    marker = next((marker for marker in markers if marker in shown), None)
    if marker is None or "zbefore" not in shown or "zafter" not in shown:
        return Marking(markers[0], markers[0])
    result = Message("tool", f"zresult{place}", tool_call_id=_CALL.id)
    messages = [Message("user", "zuser"), Message("assistant", "", tool_calls=(_CALL,)), result]
    called = _shown(template, Conversation(messages, ToolUse((Tool("zfunction", "zdescription"),))))
    return Marking(marker, place, shows_results="zresult" in called and marker in called)


def _shown(template: ChatTemplate, conversation: Conversation) -> str:
    try:
        return template.render(conversation)
    except InvalidRequest:
        return ""
