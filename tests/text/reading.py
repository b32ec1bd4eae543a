"""Answers of one family's models, read with two tools."""

from typing import Any

from app.text.families import FAMILIES
from app.text.offered import OfferedTool
from app.text.reader import MarkupReader
from tests.text.corpus_adapter import fold, read

TOOLS = (
    OfferedTool("ping", {"type": "object", "properties": {}}),
    OfferedTool("write", {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}}}),
)
CALL = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'


def reader(
    family: str = "qwen3", *, is_open: bool | None = False, special: frozenset[str] = frozenset()
) -> MarkupReader:
    return MarkupReader(FAMILIES[family], TOOLS, starts_in_reasoning=is_open, special=special)


def result(text: str, family: str = "qwen3", *, is_open: bool | None = False) -> dict[str, Any]:
    return fold(read(reader(family, is_open=is_open), [text]))
