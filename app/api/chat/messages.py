"""The messages of a chat, from the wire to the neutral conversation."""

from collections.abc import Callable

import msgspec

from app.api.media.attachments import Attachments
from app.api.media.composition import Composition
from app.api.media.reference import Reference
from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Message, Role, ToolCall
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.chat import ChatMessage, ContentPart
from app.schemas.media import InputAudio, MediaUrl
from app.schemas.tools import WireToolCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_json = msgspec.json.Encoder().encode


def to_messages(messages: list[ChatMessage], attachments: Attachments) -> list[Message]:
    """Translate a conversation. Errors: InvalidRequest naming the place."""
    return [_message(message, f"messages[{index}]", attachments) for index, message in enumerate(messages)]


def _message(message: ChatMessage, path: str, attachments: Attachments) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise UnsupportedField(f"{path}.role", f"messages of role '{message.role}' are now those of role 'tool'")
    if role == "assistant":
        return _answer(message, path)
    if message.tool_calls:
        raise InvalidRequest("Only an assistant's message has tool_calls.", param=f"{path}.tool_calls")
    if role == "tool" and not message.tool_call_id:
        raise InvalidRequest("A tool's message needs 'tool_call_id'.", param=f"{path}.tool_call_id")
    if role == "system":
        content = _text(message.content, f"{path}.content", clean=without_volatile_headers)
        return Message(role, content, message.name, tool_call_id=message.tool_call_id)
    said = Composition(attachments)
    _compose(said, message.content, f"{path}.content")
    return Message(role, said.text, message.name, tool_call_id=message.tool_call_id, media=tuple(said.media))


def _answer(message: ChatMessage, path: str) -> Message:
    calls = tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls or ()))
    reasoning = message.reasoning_content or message.reasoning
    if message.content is None and (calls or reasoning or message.refusal):
        content = message.refusal or ""
    else:
        content = _text(message.content, f"{path}.content")
    return Message("assistant", content, message.name, calls, reasoning=reasoning)


def _call(call: WireToolCall, path: str) -> ToolCall:
    if call.type != "function":
        raise UnsupportedField(f"{path}.type", f"calls of type '{call.type}' cannot be read")
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else _json(arguments).decode()
    return ToolCall(call.id, call.function.name, text)


def _compose(said: Composition, content: str | list[ContentPart] | None, path: str) -> None:
    if isinstance(content, str) or content is None:
        said.add_text(_text(content, path))
        return
    for index, part in enumerate(content):
        place = f"{path}[{index}]"
        field = f"{place}.{part.type}"
        match part:
            case ContentPart(type="image_url", image_url=MediaUrl(url=url, detail=detail)):
                said.add_media(Reference("image", url, field), detail)
            case ContentPart(type="video_url" | "input_video", video_url=MediaUrl(url=url)):
                said.add_media(Reference("video", url, f"{place}.video_url"))
            case ContentPart(type="video" | "input_video", video=MediaUrl(url=url)):
                said.add_media(Reference("video", url, f"{place}.video"))
            case ContentPart(type="audio_url", audio_url=MediaUrl(url=url)):
                said.add_media(Reference("audio", url, field))
            case ContentPart(type="input_audio", input_audio=InputAudio(data=data)):
                said.add_media(Reference("audio", data, field, is_base64=True))
            case ContentPart(type="image_url" | "video_url" | "audio_url" | "input_audio" | "video"):
                raise _missing(part.type, part.type, place)
            case ContentPart(type="input_video"):
                raise _missing(part.type, "video_url", place)
            case _:
                said.add_text(_part(part, place))


def _text(content: str | list[ContentPart] | None, path: str, *, clean: Callable[[str], str] = str) -> str:
    """The text of a message that shows nothing."""
    match content:
        case str(text):
            return clean(text)
        case None:
            raise InvalidRequest(f"'{path}' is missing.", param=path)
        case parts:
            return "".join(clean(_part(part, f"{path}[{index}]")) for index, part in enumerate(parts))


def _part(part: ContentPart, path: str) -> str:
    match part.type:
        case "text":
            text = part.text
        case "refusal":
            text = part.refusal
        case _:
            raise UnsupportedField(path, f"parts of type '{part.type}' cannot be read in this message")
    if text is None:
        raise _missing(part.type, part.type, path)
    return text


def _missing(kind: str, field: str, path: str) -> InvalidRequest:
    return InvalidRequest(f"A part of type '{kind}' needs '{field}'.", param=f"{path}.{field}")
