"""A client's JSON schema as llguidance takes it: bounded, mended where llguidance errs, and its faults located.

llguidance bounds its own work but for what is checked here (measured with llguidance 1.9): it follows references by
recursion and dies where the stack ends; `multipleOf` takes it time by the square of the number, and an object by the
square of its properties.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeGuard

from app.errors import InvalidRequest

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Schema = dict[str, Json]

_MAX_DEPTH: Final = 100
_MAX_DEPTH_OF_ALL_REFERENCES: Final = 1000
_MAX_VALUES: Final = 20_000
_MAX_MEMBERS: Final = 1000
_MAX_MULTIPLE: Final = 10_000
_MAX_HOPS: Final = 16
_STEP: Final = 1e-9
_LOCATE_S: Final = 0.5

_OPTIONS: Final = "x-guidance"
_SUBSCHEMAS: Final = (
    *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_LISTS_OF_SUBSCHEMAS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS_OF_SUBSCHEMAS: Final = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_DATA: Final = ("const", "default", "enum", "examples")


def read_schema(text: str) -> Schema:
    """A schema ready for `schema_grammar`. Errors: InvalidRequest where it is out of bounds."""
    try:
        schema: Schema = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    _check_bounds(schema)
    return _mended(schema, schema)


def schema_grammar(schema: Schema) -> str:
    """The grammar of JSON without white space, which small models would otherwise go on with for ever.

    A client's own options for llguidance are overridden: they can make something else than JSON of it.
    """
    return json.dumps({"grammars": [{"json_schema": _with_options(schema)}]})


def schema_rule(name: str, schema: Schema) -> str:
    """The same as a rule of a Lark grammar."""
    return f"{name}: %json {json.dumps(_with_options(schema))}\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a schema; `path` and `keyword` are empty where they cannot be told."""

    what: str
    path: str = ""
    keyword: str = ""


def locate_fault(schema: Schema, fault_of: Callable[[Schema], str]) -> Fault:
    """Where in the schema is what `fault_of` objects to.

    That is the innermost part which alone has a fault of the same kind, and the keyword without which it has another
    or none.
    """
    until = time.monotonic() + _LOCATE_S
    what = fault_of(schema)
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    # Some faults show wherever the definitions are, used or not.
    if _kind(fault_of(shared)) == _kind(what):
        shared = {}
    path, part, inside = "", schema, list(_subschemas(schema))
    while inside and time.monotonic() < until:
        step, inner = inside.pop(0)
        fault = fault_of(inner | shared)
        if _kind(fault) == _kind(what):
            what, path, part, inside = fault, f"{path}.{step}" if path else step, inner, list(_subschemas(inner))
    # The type last: without it a schema may be right for values of other types.
    for keyword in sorted(part, key="type".__eq__):
        without = {key: value for key, value in part.items() if key != keyword} | shared
        if keyword not in shared and time.monotonic() < until and fault_of(without) != what:
            return Fault(what, path, keyword)
    return Fault(what, path)


def _kind(fault: str) -> str:
    return fault.partition(":")[0]


def _subschemas(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas directly inside one, with the steps that lead to them."""
    for keyword, value in schema.items():
        inside: list[tuple[str, Json]] = []
        if keyword in _MAPS_OF_SUBSCHEMAS and isinstance(value, dict):
            inside = [(f"{keyword}.{name}", child) for name, child in value.items()]
        elif keyword in _LISTS_OF_SUBSCHEMAS and isinstance(value, list):
            inside = [(f"{keyword}[{index}]", child) for index, child in enumerate(value)]
        elif keyword in _SUBSCHEMAS:
            inside = [(keyword, value)]
        yield from ((step, child) for step, child in inside if isinstance(child, dict))


def _with_options(schema: Schema) -> Schema:
    options: Schema = {_OPTIONS: {"whitespace_flexible": False}}
    return schema | options


def _check_bounds(schema: Schema) -> None:
    values = _values(schema)
    depths = _depths(values)
    if depths[id(schema)] > _MAX_DEPTH:
        raise _too_deep()
    objects = [value for value in values if isinstance(value, dict)]
    if any(len(value) > _MAX_MEMBERS for value in objects):
        raise _out_of_bounds(f"an object in it has more than {_MAX_MEMBERS} members")
    multiple = 1
    for value in objects:
        if isinstance(divisor := value.get("multipleOf"), int | float):
            multiple = math.lcm(multiple, _digits(divisor))
        if multiple > _MAX_MULTIPLE:
            raise _out_of_bounds(f"'multipleOf': the least common multiple of all is above {_MAX_MULTIPLE}")
    # Each reference is followed once: the stack never holds more than all of their targets.
    references = {reference for value in objects if isinstance(reference := value.get("$ref"), str)}
    if sum(depths.get(id(_resolved(schema, one)), 1) for one in references) > _MAX_DEPTH_OF_ALL_REFERENCES:
        raise _out_of_bounds("'$ref': there are too many references to nested schemas")


def _values(schema: Schema) -> list[Json]:
    """The schema and everything in it, the outer before the inner."""
    values: list[Json] = [schema]
    for value in values:
        values += _inside(value)
        if len(values) > _MAX_VALUES:
            raise _out_of_bounds(f"it has more than {_MAX_VALUES} values")
    return values


def _depths(values: list[Json]) -> dict[int, int]:
    """How deep each list and object among `values` is nested, by id; `values` has the outer before the inner."""
    depths: dict[int, int] = {}
    for value in reversed(values):
        if isinstance(value, dict | list):
            depths[id(value)] = 1 + max((depths.get(id(inner), 0) for inner in _inside(value)), default=0)
    return depths


def _inside(value: Json) -> list[Json]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []


def _digits(number: float) -> int:
    """A number's decimal digits as an integer, without the zeros at its end, which cost nothing; 1 for zero."""
    digits = Decimal(str(number)).normalize().as_tuple().digits
    return int("".join(map(str, digits))) or 1


def _resolved(schema: Schema, reference: str) -> Json:
    """What a pointer into the schema refers to; all of it for what is no such pointer."""
    value: Json = schema
    if not reference.startswith("#/"):
        return schema
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, dict) or name not in value:
            return schema
        value = value[name]
    return value


def _mended(schema: Schema, root: Schema) -> Schema:
    """The same but for what llguidance takes too strictly or too lightly, in every schema inside."""
    changed: Schema = {}
    for key, inner in _within_open_bounds(schema).items():
        # llguidance does not follow references to see that the branches exclude each other.
        is_any = key == "oneOf" and "anyOf" not in schema and _exclude_each_other(inner, root)
        changed["anyOf" if is_any else key] = inner if key in _DATA else _mended_inside(inner, root)
    return changed


def _mended_inside(value: Json, root: Schema) -> Json:
    match value:
        case dict():
            return _mended(value, root)
        case list():
            return [_mended_inside(one, root) for one in value]
        case _:
            return value


def _within_open_bounds(schema: Schema) -> Schema:
    """Keep a whole number out that is an exclusive bound less than one away from the other: llguidance allows it."""
    low, high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    bottom, top = schema.get("minimum", low), schema.get("maximum", high)
    changed = dict(schema)
    if _is_number(low) and _is_number(top) and low == int(low) and 0 < top - low < 1:
        del changed["exclusiveMinimum"]
        changed["minimum"] = low + _STEP
    if _is_number(high) and _is_number(bottom) and high == int(high) and 0 < high - bottom < 1:
        del changed["exclusiveMaximum"]
        changed["maximum"] = high - _STEP
    return changed


def _is_number(value: Json) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _exclude_each_other(branches: Json, root: Schema) -> bool:
    """Whether the branches differ in type, in the texts they allow, or in those of a property that all require."""
    by_type: dict[str, list[Schema]] = {}
    for branch in branches if isinstance(branches, list) else [None]:
        schema = _followed(branch, root)
        if not isinstance(kind := schema.get("type"), str):
            return False
        by_type.setdefault("number" if kind == "integer" else kind, []).append(schema)
    return all(len(group) == 1 or _is_told_apart(group, root) for group in by_type.values())


def _is_told_apart(group: list[Schema], root: Schema) -> bool:
    if _are_disjoint(group):
        return True
    required = [_required_properties(schema) for schema in group]
    return any(
        _are_disjoint([_followed(properties[name], root) for properties in required])
        for name in required[0]
        if all(name in properties for properties in required)
    )


def _required_properties(schema: Schema) -> Schema:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    return {name: properties[name] for name in required if isinstance(name, str) and name in properties}


def _are_disjoint(schemas: list[Schema]) -> bool:
    """Whether each allows certain texts only, and none those of another."""
    allowed: list[Json] = []
    for schema in schemas:
        texts = [schema["const"]] if "const" in schema else schema.get("enum")
        if not isinstance(texts, list):
            return False
        allowed += texts
    return all(isinstance(text, str) for text in allowed) and len(set(map(str, allowed))) == len(allowed)


def _followed(schema: Json, root: Schema) -> Schema:
    """What a schema that is a reference refers to, else itself; nothing where it is no object."""
    for _ in range(_MAX_HOPS):
        if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
            break
        schema = _resolved(root, reference)
    return schema if isinstance(schema, dict) else {}


def _too_deep() -> InvalidRequest:
    return _out_of_bounds(f"it is nested deeper than {_MAX_DEPTH} levels")


def _out_of_bounds(what: str) -> InvalidRequest:
    return InvalidRequest(f"The JSON schema cannot be used: {what}.")
