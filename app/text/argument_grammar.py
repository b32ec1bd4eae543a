"""Grammars of arguments that are not JSON, each between a family's own signs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from app.text.lark import LarkRules
from app.text.offered import Json, OfferedTool, Schema, followed

_MAX_VARIANTS: Final = 16
_MAX_DEPTH: Final = 8
_MAX_FREE: Final = 8
_EMPTY: Final = '""'
_KEY: Final = re.compile(r"[^<>\"\n{}\s:,()=]+")
# The name of an argument that is not declared, in place of a declared one's text.
FREE_KEY: Final = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"

Member = Callable[[str, Json], str]


@dataclass(frozen=True, slots=True)
class _Members:
    """One way in which an object may keep to a schema."""

    properties: dict[str, Json]
    required: tuple[str, ...] = ()
    others: Json = None
    most: int = _MAX_FREE


def members_rule(rules: LarkRules, tool: OfferedTool, member: Member, separator: str = "") -> str:
    """A rule for the arguments of a tool, each as `member` has it for a name and its schema, in the schema's order.

    Where the schema declares none but allows any, there may be some: `member` gets no name for one of these.
    """
    between = f"{rules.text(separator)} " if separator else ""
    ways = _ways(tool.parameters, tool.parameters)
    return rules.one_of([_declared(rules, way, member, between) or _free(rules, way, member, between) for way in ways])


def _declared(rules: LarkRules, way: _Members, member: Member, between: str) -> str:
    """A rule for the required members and any of the others; nothing where none is declared.

    Each rule goes on with the next member's; `first` is for when none has come yet.
    """
    first = rest = ""
    for name, schema in reversed(way.properties.items()):
        if not _KEY.fullmatch(name):
            continue
        own = rules.rule(member(name, schema))
        begun, going_on = f"{own} {rest}".strip(), f"{between}{own} {rest}".strip()
        if name in way.required:
            first, rest = rules.rule(begun), rules.rule(going_on)
        else:
            first = rules.rule(f"{begun} | {first or _EMPTY}")
            rest = rules.rule(f"{going_on} | {rest or _EMPTY}")
    return first


def _free(rules: LarkRules, way: _Members, member: Member, between: str) -> str:
    if way.others is False or way.properties or not way.most:
        return _EMPTY
    own = rules.rule(member("", way.others if isinstance(way.others, dict) else {}))
    return rules.rule(f"({own} ({between}{own}){{0,{way.most - 1}}})?")


def _ways(schema: Json, root: Schema, depth: int = _MAX_DEPTH) -> list[_Members]:
    own = followed(schema, root)
    properties, required = own.get("properties"), own.get("required")
    declared = dict(properties) if isinstance(properties, dict) else {}
    names = tuple(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()
    says_nothing = "properties" not in own and "patternProperties" not in own
    others = own.get("additionalProperties", None if says_nothing else False)
    most = own.get("maxProperties")
    most = min(most, _MAX_FREE) if isinstance(most, int) else _MAX_FREE
    ways = [_Members({name: None for name in names if name not in declared} | declared, names, others, most)]
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = own.get(keyword)
        if isinstance(branches, list) and branches and depth:
            of_each = [_ways(branch, root, depth - 1) for branch in branches]
            for choice in of_each if keyword == "allOf" else [[way for ways in of_each for way in ways]]:
                ways = _both(ways, choice)
    return ways


def _both(ones: Sequence[_Members], others: Sequence[_Members]) -> list[_Members]:
    """Every one of the first together with every one of the second."""
    return [
        _Members(
            {name: _all_of(one.properties, other.properties, name) for name in one.properties | other.properties},
            (*one.required, *other.required),
            one.others if one.others is not None else other.others,
            min(one.most, other.most),
        )
        for one in ones
        for other in others
    ][:_MAX_VARIANTS]


def _all_of(one: dict[str, Json], other: dict[str, Json], name: str) -> Json:
    schemas: list[Json] = [schema for schema in (one.get(name), other.get(name)) if isinstance(schema, dict)]
    if len(schemas) > 1:
        return {"allOf": schemas}
    return schemas[0] if schemas else None
