"""The messages of a chat, from the wire to the neutral conversation."""

import msgspec

from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Message, Role, ToolCall
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.chat import ChatMessage, ContentPart
from app.schemas.tools import WireToolCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_json = msgspec.json.Encoder().encode


def to_messages(messages: list[ChatMessage]) -> list[Message]:
    """Translate a conversation. Errors: InvalidRequest naming the place."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: ChatMessage, path: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise UnsupportedField(f"{path}.role", f"messages of role '{message.role}' are now those of role 'tool'")
    if role != "assistant":
        if message.tool_calls:
            raise InvalidRequest("Only an assistant's message has tool_calls.", param=f"{path}.tool_calls")
        if role == "tool" and not message.tool_call_id:
            raise InvalidRequest("A tool's message needs 'tool_call_id'.", param=f"{path}.tool_call_id")
        content = _text(message.content, f"{path}.content", is_system=role == "system")
        return Message(role, content, message.name, tool_call_id=message.tool_call_id)
    calls = tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls or ()))
    reasoning = message.reasoning_content or message.reasoning
    if message.content is None and (calls or reasoning or message.refusal):
        content = message.refusal or ""
    else:
        content = _text(message.content, f"{path}.content")
    return Message(role, content, message.name, calls, reasoning=reasoning)


def _call(call: WireToolCall, path: str) -> ToolCall:
    if call.type != "function":
        raise UnsupportedField(f"{path}.type", f"calls of type '{call.type}' cannot be read")
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else _json(arguments).decode()
    return ToolCall(call.id, call.function.name, text)


def _text(content: str | list[ContentPart] | None, path: str, *, is_system: bool = False) -> str:
    clean = without_volatile_headers if is_system else str
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
            raise UnsupportedField(path, f"parts of type '{part.type}' need another model")
    if text is None:
        raise InvalidRequest(f"A {part.type} part needs '{part.type}'.", param=f"{path}.{part.type}")
    return text
