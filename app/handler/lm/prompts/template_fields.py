"""One message, one tool, one call as the objects that chat templates read: OpenAI's, with a template's wishes."""

import json
from typing import Final, cast

import msgspec

from app.core.conversation import Message, Tool, ToolCall
from app.handler.lm.prompts.template_traits import ArgumentStyle, Traits
from app.handler.lm.sight import MEDIA_PLACE, PLACE_HEAD

Fields = dict[str, object]

_decode_object: Final = msgspec.json.Decoder(Fields).decode
# Templates look for both without asking.
_NO_PARAMETERS: Final[Fields] = {"type": "object", "properties": {}}


def as_fields(message: Message, traits: Traits) -> Fields:
    """A message; what it does not have is left out, never None."""
    fields: Fields = {"role": message.role, "content": _content(message, traits)}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [_call(call, traits) for call in message.tool_calls]
        if traits.omits_empty_content and not fields["content"]:
            del fields["content"]
    if message.reasoning and traits.reasoning == "field":
        fields |= dict.fromkeys(traits.reasoning_names, message.reasoning)
    return fields


def as_function(tool: Tool, *, has_descriptions: bool) -> Fields:
    """A tool's function, with its parameters in the client's order; `has_descriptions` gives all of them one."""
    parameters = _object(tool.parameters) or {}
    parameters |= {key: value for key, value in _NO_PARAMETERS.items() if key not in parameters}
    function: Fields = {"name": tool.name}
    if tool.description is not None or has_descriptions:
        function["description"] = tool.description or ""
    function["parameters"] = _described(parameters) if has_descriptions else parameters
    return function


def arguments_of(call: ToolCall) -> Fields:
    """A call's arguments; a text that is no JSON object, as weak models write it, becomes one that holds it."""
    if not call.arguments.strip():
        return {}
    known = _object(call.arguments)
    return {"arguments": call.arguments} if known is None else known


def json_text(value: object) -> str:
    """`value` in the spelling of the templates' own filter."""
    return json.dumps(value, ensure_ascii=False)


def _content(message: Message, traits: Traits) -> object:
    if message.role == "tool" and traits.parses_results and message.content.startswith("{"):
        known = _object(message.content)
        if known is not None:
            return known
    has_part = bool(message.reasoning) and traits.reasoning == "part"
    has_media = PLACE_HEAD in message.content
    if not (traits.has_content_parts or has_part or has_media):
        return message.content
    parts: list[Fields] = [{"type": "thinking", "thinking": message.reasoning}] if has_part else []
    if has_media:
        return parts + _with_media(message.content)
    return [*parts, {"type": "text", "text": message.content}] if message.content or not parts else parts


def _with_media(content: str) -> list[Fields]:
    """The parts of a text with media in it."""
    parts: list[Fields] = []
    for number, piece in enumerate(MEDIA_PLACE.split(content)):
        if number % 2:
            parts.append({"type": piece})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _call(call: ToolCall, traits: Traits) -> Fields:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments(call, traits.arguments, drops_null=traits.drops_null)},
    }


def _arguments(call: ToolCall, style: ArgumentStyle, *, drops_null: bool) -> object:
    known = arguments_of(call)
    if drops_null:
        known = {name: value for name, value in known.items() if value is not None}
    match style:
        case "object":
            return known
        case "text":
            return json_text(known)
        case "json values":
            return {name: value if isinstance(value, str) else json_text(value) for name, value in known.items()}
        case "literals":
            return {name: repr(value) for name, value in known.items()}


def _object(text: str) -> Fields | None:
    """The JSON object that `text` is, None where it is none."""
    try:
        return _decode_object(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _described(schema: object) -> object:
    """A JSON schema whose properties all have a description, and whose objects say what else they may hold."""
    if isinstance(schema, list):
        return [_described(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    known = {key: _described(value) for key, value in cast("Fields", schema).items()}
    properties = known.get("properties")
    if isinstance(properties, dict):
        known["properties"] = {
            name: {"description": "", **cast("Fields", inner)} if isinstance(inner, dict) else inner
            for name, inner in cast("Fields", properties).items()
        }
    if known.get("type") == "object":
        known.setdefault("additionalProperties", {})
    return known
