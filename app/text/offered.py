"""The tools that are offered with a request, and what the schemas of their arguments say."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.core.conversation import Tool

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Schema = dict[str, Json]

_MAX_HOPS: Final = 16
_ANY: Final[frozenset[str]] = frozenset()
_KINDS: Final = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that may be called; `parameters` is the schema of its arguments."""

    name: str
    parameters: Schema

    def schema_of(self, name: str) -> Json:
        """The schema of one of its arguments, None where it has none."""
        return member_schema(self.parameters, name, self.parameters)


def read_tools(tools: Iterable[Tool]) -> tuple[OfferedTool, ...]:
    """The tools with their schemas parsed; what is no schema of an object says nothing about the arguments."""
    return tuple(OfferedTool(tool.name, _parsed(tool.parameters)) for tool in tools)


def _parsed(text: str) -> Schema:
    try:
        schema: Json = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return schema if isinstance(schema, dict) else {}


def member_schema(schema: Json, name: str, root: Schema) -> Json:
    """The schema of an object's member, None where it has none."""
    others: Json = None
    for part in _alternatives(schema, root):
        properties = part.get("properties")
        if isinstance(properties, dict) and name in properties:
            return properties[name]
        others = others or part.get("additionalProperties")
    return others


def items_schema(schema: Json, root: Schema) -> Json:
    """The schema of a list's items."""
    return next((part["items"] for part in _alternatives(schema, root) if "items" in part), None)


def declared_types(schema: Json, root: Schema, hops: int = _MAX_HOPS) -> frozenset[str]:
    """The JSON types that a schema allows; none where it allows any or says nothing."""
    schema = followed(schema, root)
    types: set[str] = set()
    match schema.get("type"):
        case str() as name:
            types.add(name)
        case list() as names:
            types.update(name for name in names if isinstance(name, str))
        case _:
            types.update(_implied_types(schema, root, hops))
    if types and schema.get("nullable") is True:
        types.add("null")
    return frozenset(types)


def _implied_types(schema: Schema, root: Schema, hops: int) -> frozenset[str]:
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list) and branches and hops:
            of_each = [declared_types(branch, root, hops - 1) for branch in branches]
            return frozenset[str]().union(*of_each) if all(of_each) else _ANY
    together = schema.get("allOf")
    if isinstance(together, list) and hops:
        return next((types for one in together if (types := declared_types(one, root, hops - 1))), _ANY)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset(json_type(json.dumps(value)) for value in values)
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else _ANY


def _alternatives(schema: Json, root: Schema, hops: int = _MAX_HOPS) -> Iterable[Schema]:
    """A schema and those it combines, references followed."""
    own = followed(schema, root)
    yield own
    for keyword in ("anyOf", "oneOf", "allOf"):
        branches = own.get(keyword)
        if isinstance(branches, list) and hops:
            for branch in branches:
                yield from _alternatives(branch, root, hops - 1)


def followed(schema: Json, root: Schema) -> Schema:
    """What a schema that is a reference refers to, else itself; nothing where it is no object."""
    for _ in range(_MAX_HOPS):
        if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
            break
        schema = _resolved(reference, root)
    return schema if isinstance(schema, dict) else {}


def _resolved(reference: str, root: Schema) -> Json:
    value: Json = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        value = value.get(name) if isinstance(value, dict) else None
    return value


def json_type(value: str) -> str:
    """The JSON type of a value in JSON."""
    whole = "integer" if value.removeprefix("-").isdecimal() else "number"
    return _KINDS.get(value[0], whole)
