"""What models of many families write, and what must come of it; the first line of the file has the tools."""

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Case = dict[str, Any]


@cache
def cases() -> dict[str, list[Case]]:
    """The cases by family."""
    first, *others = Path(__file__).with_name("cases.jsonl").read_text(encoding="utf-8").splitlines()
    tools: list[list[Case]] = json.loads(first)["tools"]
    by_family: dict[str, list[Case]] = {}
    for line in others:
        case = json.loads(line)
        by_family.setdefault(case["id"].partition("/")[0], []).append(case | {"tools": tools[case["tools"]]})
    return by_family


def cuttings(text: str, seed: str, num_random: int) -> Iterator[list[str]]:
    """The text whole, character by character, and cut at random."""
    yield [text]
    yield list(text)
    draw = random.Random(seed)
    for _ in range(num_random):
        edges = sorted(draw.choices(range(len(text) + 1), k=draw.choice([1, 3, 9, 30])))
        yield [text[start:end] for start, end in zip([0, *edges], [*edges, len(text)], strict=True)]


def is_right(case: Case, got: Case) -> bool:
    """Whether it is what is expected, or another answer that counts."""
    if _agrees(case["expected"], got, case, case["mode"], case.get("content_contains", [])):
        return True
    return any(
        _agrees(
            case["expected"] | other,
            got,
            case,
            "contains" if "content_contains" in other else "norm",
            other.get("content_contains", []),
        )
        for other in case.get("alternatives", [])
    )


def _agrees(expected: Case, got: Case, case: Case, mode: str, contained: list[str]) -> bool:
    calls = [(call["name"], json.loads(call["arguments"])) for call in got["tool_calls"] if not call["incomplete"]]
    if calls != [(call["name"], _decoded(call["arguments"])) for call in expected["tool_calls"]]:
        return False
    # Only where the text was cut off may there be more.
    if mode != "truncated" and len(calls) < len(got["tool_calls"]):
        return False
    squeeze = "" if case.get("reasoning_mode") == "nospace" else " "
    if _normal(got["reasoning"], squeeze) != _normal(expected["reasoning"], squeeze):
        return False
    content, wanted = got["content"], expected["content"]
    match mode:
        case "exact":
            return content == wanted
        case "contains":
            return all(_normal(part) in _normal(content) for part in contained)
        case "truncated":
            return _normal(content).startswith(_normal(wanted))
        case _:
            return _normal(content) == _normal(wanted)


def _normal(text: str, space: str = " ") -> str:
    return re.sub(r"\s+", space, text).strip()


def _decoded(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments
