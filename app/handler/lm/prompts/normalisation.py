"""Neutral messages and tools to what one chat template takes, by its traits."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from app.core.conversation import Message, Role, Tool
from app.handler.lm.prompts.template_fields import Fields, arguments_of, as_fields, as_function, json_text
from app.handler.lm.prompts.template_traits import Traits
from app.handler.lm.prompts.tool_turns import with_results_in_order
from app.handler.lm.prompts.written_tools import tools_prompt, written_calls, written_result

# For a template that shows tools beside a system message only: what a model for nothing but function calls is told.
_TOOLS_ONLY: Final = "You are a model that can do function calling with the following functions"
# Said for a side whose turn it is, where the sides must take turns.
_FILLERS: Final[dict[Role, str]] = {"user": "Continue.", "assistant": "OK."}


def normalise(
    messages: list[Message], tools: tuple[Tool, ...], traits: Traits
) -> tuple[list[Fields], list[Fields] | None]:
    """Messages and tools as a template takes them in its variables of these names.

    A text is moved, never dropped; what the template itself leaves out stays its decision. Errors: InvalidRequest for a
    result that answers no call.
    """
    if traits.hides_calls and not tools:
        traits = replace(traits, calls="content", results="user")
    turns = with_results_in_order(messages, traits.ids, is_single=traits.calls == "single")
    turns = [turn for message in turns for turn in _call_turns(message, traits)]
    if traits.results == "user":
        turns = [*_results_as_users(turns)]
    functions = [as_function(tool, has_descriptions=traits.needs_descriptions) for tool in tools]
    if tools and traits.tools in ("told", "generic"):
        turns = with_system(turns, tools_prompt(functions, traits.call_example))
    elif tools and traits.tools != "argument" and not _has_system(turns):
        turns = [Message("system", _TOOLS_ONLY), *turns]
    if traits.system != "anywhere":
        turns = _with_one_system(turns, as_user=traits.system == "user")
    if traits.alternates:
        turns = [*_taking_turns(_merged(turns, traits))]
    fields = [as_fields(turn, traits) for turn in turns]
    return _with_tools(fields, functions, traits)


def _with_tools(
    fields: list[Fields], functions: list[Fields], traits: Traits
) -> tuple[list[Fields], list[Fields] | None]:
    nested: list[Fields] = [{"type": "function", "function": function} for function in functions]
    match traits.tools:
        case "argument" | "beside system" if nested:
            return fields, nested
        case "in system" if nested:
            fields[0]["tools"] = json_text(nested)
        case _:
            pass
    return fields, [] if traits.has_empty_tools else None


def _call_turns(message: Message, traits: Traits) -> Iterator[Message]:
    """An assistant's message with calls as the template can show it."""
    if not message.tool_calls:
        yield message
    elif traits.calls == "content":
        calls = [(call.name, arguments_of(call)) for call in message.tool_calls]
        texts = (message.content, written_calls(calls, traits.family))
        yield replace(message, content="\n".join(filter(None, texts)), tool_calls=())
    elif message.content and message.reasoning and traits.joins_content:
        yield replace(message, content="", reasoning=f"{message.reasoning}\n\n{message.content}")
    elif message.content and traits.content == "apart":
        yield replace(message, tool_calls=())
        yield Message("assistant", "", tool_calls=message.tool_calls)
    else:
        yield message


def _results_as_users(turns: Iterable[Message]) -> Iterator[Message]:
    """Results that follow each other in one message of the user."""
    for is_result, group in itertools.groupby(turns, lambda turn: turn.role == "tool"):
        if is_result:
            yield Message("user", "\n".join(written_result(turn.content) for turn in group))
        else:
            yield from group


def with_system(turns: list[Message], text: str) -> list[Message]:
    """The same messages with `text` at the end of the first system message."""
    if _has_system(turns):
        return [replace(turns[0], content=_joined(turns[0].content, text)), *turns[1:]]
    return [Message("system", text), *turns]


def _has_system(turns: list[Message]) -> bool:
    return bool(turns) and turns[0].role == "system"


def _with_one_system(turns: list[Message], *, as_user: bool) -> list[Message]:
    """All system messages in one at the front, or in the user's first."""
    text = _joined(*(turn.content for turn in turns if turn.role == "system"))
    others = [turn for turn in turns if turn.role != "system"]
    if len(others) == len(turns):
        return turns
    if not as_user:
        return [Message("system", text), *others]
    if others and others[0].role == "user":
        return [replace(others[0], content=_joined(text, others[0].content)), *others[1:]]
    return [Message("user", text), *others]


def _merged(turns: list[Message], traits: Traits) -> list[Message]:
    """Messages of one side that follow each other as one, unless that would hide a text."""
    merged: list[Message] = []
    for turn in turns:
        last = merged[-1] if merged else None
        is_same_side = last is not None and last.role == turn.role and turn.role in _FILLERS
        if last is None or not is_same_side or (traits.content != "beside" and (last.tool_calls or turn.tool_calls)):
            merged.append(turn)
            continue
        merged[-1] = replace(
            last,
            content=_joined(last.content, turn.content),
            tool_calls=last.tool_calls + turn.tool_calls,
            reasoning=_joined(last.reasoning, turn.reasoning) or None,
        )
    return merged


def _taking_turns(turns: list[Message]) -> Iterator[Message]:
    """User and assistant in turns, the user first, messages with calls and results not counted."""
    last: Role = "assistant"
    is_begun = False
    for turn in turns:
        counts = turn.role == "user" or (turn.role == "assistant" and (not turn.tool_calls or not is_begun))
        if counts and turn.role == last:
            last = "user" if last == "assistant" else "assistant"
            yield Message(last, _FILLERS[last])
        if counts and not turn.tool_calls:
            last = turn.role
        is_begun |= counts
        yield turn


def _joined(*texts: str | None) -> str:
    return "\n\n".join(filter(None, texts))
