"""Tool calls and their results: each result behind the call it answers, ids as a template wants them."""

import hashlib
import itertools
import re
import string
from typing import Final, NamedTuple

from msgspec.structs import replace

from app.core.conversation import Message, ToolCall
from app.errors import InvalidRequest
from app.handler.lm.prompts.template_traits import IdStyle

_ALPHABET: Final = string.digits + string.ascii_letters
_NINE: Final = re.compile(r"[0-9a-zA-Z]{9}")


class _Place(NamedTuple):
    """A call by its message's index and its own."""

    message: int
    call: int


def with_results_in_order(messages: list[Message], style: IdStyle, *, is_single: bool) -> list[Message]:
    """The same messages, each result behind its call and named after it, the results in the order of the calls.

    Ids become unique and get their `style`; they depend on the messages before them only. Where calls are to be
    `is_single`, a message with several is as many messages, its content and reasoning in the first. Errors:
    InvalidRequest for a result that answers no call.
    """
    results = _matched(messages)
    taken: set[str] = set()
    ordered: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            continue
        calls = [
            replace(call, id=_new_id(call, position, style, taken)) for position, call in enumerate(message.tool_calls)
        ]
        ordered.append(replace(message, tool_calls=tuple(calls[:1] if is_single else calls)) if calls else message)
        for position, call in enumerate(calls):
            if is_single and position:
                ordered.append(Message("assistant", "", tool_calls=(call,)))
            if result := results.get(_Place(index, position)):
                ordered.append(replace(result, name=call.name, tool_call_id=call.id))
    return ordered


def _matched(messages: list[Message]) -> dict[_Place, Message]:
    """The results by the calls they answer."""
    waiting: dict[str | None, list[_Place]] = {}
    for index, message in enumerate(messages):
        for position, call in enumerate(message.tool_calls):
            waiting.setdefault(call.id, []).append(_Place(index, position))
    results: dict[_Place, Message] = {}
    for index, message in enumerate(messages):
        if message.role == "tool":
            places = waiting.get(message.tool_call_id, [])
            if not places:
                raise InvalidRequest(
                    f"messages[{index}] is the result of the tool call '{message.tool_call_id}', which no assistant "
                    "message makes, or which has a result already.",
                    param="messages",
                )
            # An id that is used again means the nearest call before the result.
            before = [place for place in places if place.message < index]
            place = max(before, key=lambda place: (place.message, -place.call)) if before else places[0]
            places.remove(place)
            results[place] = message
    return results


def _new_id(call: ToolCall, position: int, style: IdStyle, taken: set[str]) -> str:
    if style in ("by message", "by conversation"):
        number = position if style == "by message" else len(taken)
        taken.add(new := f"functions.{call.name}:{number}")
        return new
    wanted = itertools.chain([call.id], (f"{call.id}-{count}" for count in itertools.count(2)))
    fitting = wanted if style == "any" else map(_nine, wanted)
    new = next(name for name in fitting if name not in taken)
    taken.add(new)
    return new


def _nine(name: str) -> str:
    """Nine letters and digits that stand for `name`."""
    if _NINE.fullmatch(name):
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=9).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest)
