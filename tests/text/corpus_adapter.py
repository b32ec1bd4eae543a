"""Runs the production reader over a text in any pieces, and folds what it gives."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from app.core.conversation import Tool
from app.text.families import FAMILIES
from app.text.family import prompt_opens_reasoning
from app.text.offered import OfferedTool, read_tools
from app.text.pieces import CallArguments, CallEnded, CallStarted, Content, Piece, Thought
from app.text.reader import MarkupReader


def parse(
    family: str, text_chunks: Iterable[str], tools: list[dict[str, Any]], prompt_suffix: str = ""
) -> dict[str, Any]:
    """What a client would get."""
    known = FAMILIES[family]
    is_open = prompt_opens_reasoning(known, prompt_suffix)
    return fold(read(MarkupReader(known, offered(tools), starts_in_reasoning=is_open), text_chunks))


def offered(tools: list[dict[str, Any]]) -> tuple[OfferedTool, ...]:
    functions = [tool.get("function", tool) for tool in tools]
    return read_tools(Tool(one["name"], parameters=json.dumps(one.get("parameters", {}))) for one in functions)


def read(reader: MarkupReader, chunks: Iterable[str], special: frozenset[str] = frozenset()) -> list[Piece]:
    """All pieces of an answer; chunks that are in `special` are one token."""
    pieces = [piece for chunk in chunks for piece in reader.push(chunk, is_special=chunk in special)]
    return pieces + reader.finish()


def fold(pieces: Sequence[Piece]) -> dict[str, Any]:
    """A call that has not ended is incomplete if it comes last, else it was none."""
    texts: dict[type[Piece], str] = {Content: "", Thought: ""}
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if calls and calls[-1]["incomplete"] and not isinstance(piece, CallArguments | CallEnded):
            calls.pop()
        match piece:
            case Content() | Thought():
                texts[type(piece)] += piece.text
            case CallStarted():
                calls.append({"name": piece.name, "arguments": "", "incomplete": True})
            case CallArguments():
                calls[-1]["arguments"] += piece.fragment
            case CallEnded():
                calls[-1]["incomplete"] = False
    return {"content": texts[Content], "reasoning": texts[Thought], "tool_calls": calls}
