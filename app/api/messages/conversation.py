"""Anthropic's system prompt and messages, to the neutral conversation."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from app.api.media.attachments import Attachments
from app.api.media.composition import Composition, moved
from app.api.media.reference import Reference
from app.api.messages.signature import thinking_of
from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Message, ToolCall
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.messages import (
    ContentBlock,
    ContextManagement,
    CountTokensRequest,
    DocumentBlock,
    ImageBlock,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    WireMessage,
)

_json = msgspec.json.Encoder().encode


def to_messages(body: CountTokensRequest, attachments: Attachments) -> list[Message]:
    """Translate the system prompt and the messages. Errors: InvalidRequest naming the place."""
    _check_results(body.messages)
    translated = (_messages(message, f"messages[{index}]", attachments) for index, message in enumerate(body.messages))
    system = _system(body.system, "system")
    messages = _joined(itertools.chain([system] if system.content else [], *translated))
    return _without_old_thinking(messages, body.context_management or ContextManagement())


def references(messages: Sequence[WireMessage]) -> set[str]:
    """The names of the tools that the results of earlier calls refer to."""
    results = [
        block for message in messages for block in _blocks(message.content) if isinstance(block, ToolResultBlock)
    ]
    inner = itertools.chain.from_iterable(_blocks(result.content) for result in results)
    return {block.tool_name for block in inner if isinstance(block, ToolReferenceBlock)}


def _messages(message: WireMessage, path: str, attachments: Attachments) -> Iterator[Message]:
    match message.role:
        case "system":
            yield _system(message.content, f"{path}.content")
        case "assistant":
            yield _assistant(message.content, f"{path}.content")
        case "user":
            yield from _user(message.content, f"{path}.content", attachments)


def _user(content: str | list[ContentBlock], path: str, attachments: Attachments) -> Iterator[Message]:
    """The results of calls are messages of their own, before what the user says."""
    said = Composition(attachments, separator="\n")
    blocks = _blocks(content)
    for index, block in enumerate(blocks):
        if isinstance(block, ToolResultBlock):
            yield _result(block, f"{path}[{index}].content", attachments)
        else:
            _add(said, block, f"{path}[{index}]")
    if any(not isinstance(block, ToolResultBlock) for block in blocks) or not blocks:
        yield Message("user", said.text, media=tuple(said.media))


def _result(block: ToolResultBlock, path: str, attachments: Attachments) -> Message:
    given = Composition(attachments, separator="\n")
    for index, inner in enumerate(_blocks(block.content)):
        _add(given, inner, f"{path}[{index}]")
    # Nothing else would tell the model that the call failed.
    prefix = "Error: " if block.is_error else ""
    media = moved(given.media, len(prefix))
    return Message("tool", prefix + given.text, tool_call_id=block.tool_use_id, media=media)


def _add(said: Composition, block: ContentBlock, path: str) -> None:
    if not isinstance(block, ImageBlock):
        said.add_text(_text_of(block, path))
        return
    match block.source.type:
        case "base64":
            field, text = "data", block.source.data
        case "url":
            field, text = "url", block.source.url
        case kind:
            raise UnsupportedField(f"{path}.source", f"an image of type '{kind}' is not kept here; send its base64")
    place = f"{path}.source.{field}"
    if text is None:
        raise _missing(place)
    said.add_media(Reference("image", text, place, is_base64=field == "data"))


def _assistant(content: str | list[ContentBlock], path: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(_blocks(content)):
        match block:
            case ThinkingBlock():
                thoughts.append(thinking_of(block, f"{path}[{index}]"))
            case RedactedThinkingBlock():
                pass
            case ToolUseBlock():
                calls.append(ToolCall(block.id, block.name, _json(block.input).decode()))
            case _:
                texts.append(_text_of(block, f"{path}[{index}]"))
    return Message("assistant", "".join(texts), tool_calls=tuple(calls), reasoning="".join(thoughts) or None)


def _system(content: str | Sequence[ContentBlock] | None, path: str) -> Message:
    texts = [_text_of(block, f"{path}[{index}]") for index, block in enumerate(_blocks(content))]
    return Message("system", _lines(without_volatile_headers(text) for text in texts))


def _text(content: str | Sequence[ContentBlock] | None, path: str) -> str:
    return _lines(_text_of(block, f"{path}[{index}]") for index, block in enumerate(_blocks(content)))


def _lines(texts: Iterable[str | None]) -> str:
    """Blocks are separate texts, each on lines of its own."""
    return "\n".join(filter(None, texts))


def _text_of(block: ContentBlock, path: str) -> str:
    match block:
        case TextBlock():
            return block.text
        case DocumentBlock():
            return _lines((block.title, block.context, _document_text(block, f"{path}.source")))
        case ToolReferenceBlock():
            return f"The tool {block.tool_name} can be called now."
        case _:
            raise UnsupportedField(path, f"a block of type '{block.type}' cannot be read here")


def _document_text(block: DocumentBlock, path: str) -> str:
    source = block.source
    match source.type:
        case "text":
            field, text = "data", source.data
        case "content":
            field, text = "content", None if source.content is None else _text(source.content, f"{path}.content")
        case _:
            raise UnsupportedField(path, f"a document of type '{source.type}' needs another model; send its text")
    if text is None:
        raise _missing(f"{path}.{field}")
    return text


def _missing(place: str) -> InvalidRequest:
    return InvalidRequest(f"'{place}' is missing.", param=place, code="missing_required_parameter")


def _blocks(content: str | Sequence[ContentBlock] | None) -> Sequence[ContentBlock]:
    """A string is short for one block of text."""
    return (TextBlock(type="text", text=content),) if isinstance(content, str) else content or ()


def _joined(messages: Iterator[Message]) -> list[Message]:
    """Messages in a row of the user, or of the assistant, are one: templates insist on turns."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is None or last.role != message.role or message.role not in {"user", "assistant"}:
            joined.append(message)
            continue
        is_user = message.role == "user"
        content = _lines((last.content, message.content)) if is_user else last.content + message.content
        joined[-1] = Message(
            message.role,
            content,
            tool_calls=last.tool_calls + message.tool_calls,
            reasoning=((last.reasoning or "") + (message.reasoning or "")) or None,
            media=last.media + moved(message.media, len(content) - len(message.content)),
        )
    return joined


def _check_results(messages: Sequence[WireMessage]) -> None:
    """Refuse what answers no call."""
    calls: set[str] = set()
    for number, message in enumerate(messages):
        for index, block in enumerate(_blocks(message.content)):
            path = f"messages[{number}].content[{index}].tool_use_id"
            match block:
                case ToolUseBlock():
                    calls.add(block.id)
                case ToolResultBlock() if block.tool_use_id not in calls:
                    raise InvalidRequest(
                        f"'{path}': no tool_use before it has the id '{block.tool_use_id}'.", param=path
                    )
                case _:
                    pass


def _without_old_thinking(messages: list[Message], asked: ContextManagement) -> list[Message]:
    """Take out what `clear_thinking` asks for: all thinking but that of the last turns which have any."""
    for index, edit in enumerate(asked.edits or ()):
        path = f"context_management.edits[{index}]"
        if edit.type != "clear_thinking_20251015":
            raise UnsupportedField(f"{path}.type", f"edits of type '{edit.type}' are left to the client")
        match edit.keep:
            case "all" | {"type": "all"}:
                pass
            case None:
                messages = _with_last_thinking(messages, 1)
            case {"type": "thinking_turns", "value": int(num_turns)} if num_turns > 0:
                messages = _with_last_thinking(messages, num_turns)
            case _:
                raise InvalidRequest(
                    f"'{path}.keep' must be \"all\" or a number of thinking_turns.", param=f"{path}.keep"
                )
    return messages


def _with_last_thinking(messages: list[Message], num_turns: int) -> list[Message]:
    """A turn is all that the assistant does between two messages of the user."""
    kept: list[Message] = []
    num_thinking, thinks = 0, False
    for message in reversed(messages):
        if message.role == "user":
            num_thinking, thinks = num_thinking + thinks, False
        thinks = thinks or message.reasoning is not None
        kept.append(message if num_thinking < num_turns else msgspec.structs.replace(message, reasoning=None))
    return kept[::-1]
