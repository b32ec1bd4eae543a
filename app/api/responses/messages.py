"""Items to the neutral conversation."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from app.api.media.attachments import Attachments
from app.api.media.composition import Composition
from app.api.media.reference import Reference
from app.api.responses.reasoning import unsealed
from app.api.responses.toolbox import CUSTOM_PARAMETER, joined
from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Message, ToolCall
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.media import InputAudio
from app.schemas.responses_items import (
    Content,
    ContentPart,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    KeptItem,
    MessageItem,
    OtherItem,
    ReasoningItem,
    ToolsItem,
)

_TEXT_TYPES = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def to_messages(items: Iterable[tuple[str, KeptItem]], attachments: Attachments) -> list[Message]:
    """The messages that items are, each given with its place. Errors: InvalidRequest naming the place."""
    placed = list(items)
    outputs = (FunctionCallOutputItem, CustomToolCallOutputItem)
    reader = _Reader({item.call_id for _, item in placed if isinstance(item, outputs)}, attachments)
    for path, item in placed:
        reader.read(item, path)
    reader.end_turn()
    return reader.messages


@dataclass(slots=True)
class _Turn:
    """What the assistant thought, said and called before somebody else spoke."""

    text: str | None = None
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])


class _Reader:
    """Puts together what belongs together."""

    def __init__(self, answered: set[str], attachments: Attachments) -> None:
        self.messages: list[Message] = []
        self._turn: _Turn | None = None
        self._answered = answered
        self._attachments = attachments
        self._call_ids: set[str] = set()

    def read(self, item: KeptItem, path: str) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._say(_text(item.content, f"{path}.content"))
            case MessageItem(role="user"):
                self.end_turn()
                said = self._composed(item.content, f"{path}.content")
                self.messages.append(Message("user", said.text, media=tuple(said.media)))
            case MessageItem():
                self.end_turn()
                self.messages.append(system_message(_text(item.content, f"{path}.content")))
            case ReasoningItem():
                self._open_turn().reasoning += _thought(item, path)
            # Cut off, and nobody made it.
            case FunctionCallItem() | CustomToolCallItem() if (
                item.status == "incomplete" and item.call_id not in self._answered
            ):
                pass
            case FunctionCallItem():
                self._call(item.call_id, joined(item.namespace, item.name), item.arguments)
            case CustomToolCallItem():
                arguments = msgspec.json.encode({CUSTOM_PARAMETER: item.input}).decode()
                self._call(item.call_id, joined(item.namespace, item.name), arguments)
            case FunctionCallOutputItem() | CustomToolCallOutputItem():
                self._answer(item, path)
            case ToolsItem() | OtherItem():
                pass

    def end_turn(self) -> None:
        """Somebody else speaks, or nobody any more."""
        turn, self._turn = self._turn, None
        # A thought that led to nothing is not told.
        if turn is not None and (turn.calls or turn.text is not None):
            self.messages.append(
                Message("assistant", turn.text or "", tool_calls=tuple(turn.calls), reasoning=turn.reasoning or None)
            )

    def _open_turn(self) -> _Turn:
        self._turn = self._turn or _Turn()
        return self._turn

    def _say(self, text: str) -> None:
        # What is said after a call belongs to it; of two texts without one each is a message.
        if self._turn is not None and self._turn.text and not self._turn.calls:
            self.end_turn()
        turn = self._open_turn()
        turn.text = (turn.text or "") + text

    def _call(self, call_id: str, name: str, arguments: str) -> None:
        self._call_ids.add(call_id)
        self._open_turn().calls.append(ToolCall(call_id, name, arguments))

    def _answer(self, item: FunctionCallOutputItem | CustomToolCallOutputItem, path: str) -> None:
        if item.call_id not in self._call_ids:
            raise InvalidRequest(
                f"No tool call found for the output with call_id '{item.call_id}'.", param=f"{path}.call_id"
            )
        self.end_turn()
        given = self._composed(item.output, f"{path}.output")
        self.messages.append(Message("tool", given.text, tool_call_id=item.call_id, media=tuple(given.media)))

    def _composed(self, content: Content, path: str) -> Composition:
        said = Composition(self._attachments)
        if isinstance(content, str):
            said.add_text(content)
            return said
        for index, part in enumerate(content):
            place = f"{path}[{index}]"
            match part:
                case ContentPart(type="input_image", image_url=str(url)):
                    said.add_media(Reference("image", url, f"{place}.image_url"), part.detail)
                case ContentPart(type="input_image", file_id=str()):
                    raise UnsupportedField(f"{place}.file_id", "no files are kept; send the image in 'image_url'")
                case ContentPart(type="input_audio", input_audio=InputAudio(data=data)):
                    said.add_media(Reference("audio", data, f"{place}.input_audio", is_base64=True))
                case ContentPart(type="input_image" | "input_audio"):
                    raise _missing(part, "input_audio" if part.type == "input_audio" else "image_url", place)
                case _:
                    said.add_text(_part(part, place))
        return said


def system_message(text: str) -> Message:
    """What the model is to keep to."""
    return Message("system", without_volatile_headers(text))


def _thought(item: ReasoningItem, path: str) -> str:
    """What was thought, from the first of its forms that there is."""
    if item.content:
        return _text(item.content, f"{path}.content")
    if item.encrypted_content and (text := unsealed(item.encrypted_content)) is not None:
        return text
    return _text(item.summary, f"{path}.summary")


def _text(content: Content, path: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: ContentPart, path: str) -> str:
    if part.type not in (*_TEXT_TYPES, "refusal"):
        raise UnsupportedField(path, f"parts of type '{part.type}' cannot be read here")
    field = "refusal" if part.type == "refusal" else "text"
    text = part.refusal if field == "refusal" else part.text
    if text is None:
        raise _missing(part, field, path)
    return text


def _missing(part: ContentPart, field: str, path: str) -> InvalidRequest:
    return InvalidRequest(f"A part of type '{part.type}' needs '{field}'.", param=f"{path}.{field}")
