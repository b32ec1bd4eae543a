"""Grammars that hold a model to calls in its family's own markup, from the data by which they are read."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from app.text.argument_grammar import FREE_KEY, members_rule
from app.text.dict_calls import DictCalls
from app.text.element_calls import ElementCalls
from app.text.family import Family, Region
from app.text.headers import template_parts
from app.text.json_calls import JsonCalls, NamedJson
from app.text.lark import CallGrammar, LarkRules, regex_of
from app.text.offered import Json, OfferedTool, declared_types
from app.text.python_calls import PythonCalls
from app.text.source import SPACE
from app.text.tag_calls import TagCalls
from app.text.value_grammar import RawValues

_DIGITS: Final = "/[0-9]{1,3}/"
_ID: Final = "/[a-z0-9]{9}/"
_KINDS: Final = ("object", "array", "boolean", "null")
_BOOLEAN_KIND: Final = 'string="{kind}"'


def lone_open(family: Family) -> str | None:
    """The text at which a call opens in an answer, None for families that mark none."""
    region = family.regions[0]
    texts = (region.sign, region.section[0], region.wrap[0], region.open)
    return next((text.strip(SPACE) for text in texts if text), None)


def call_grammar(
    family: Family,
    tools: Sequence[OfferedTool],
    *,
    is_parallel: bool,
    tokens: Mapping[str, int],
    is_open: bool = False,
) -> CallGrammar:
    """The grammar of one call of these tools, or with `is_parallel` of one or several; of nothing else.

    Their schemas are kept to as far as the family's markup can express it: all of them where arguments are JSON, else
    what they say of each argument and which are required. `tokens` are the texts that are one token. With `is_open` it
    is the grammar of what follows `lone_open`.
    """
    opened = lone_open(family) if is_open else None
    return _Calls(LarkRules(tokens), family.regions[0], tools, opened or "").grammar(is_parallel=is_parallel)


class _Calls:
    def __init__(self, rules: LarkRules, region: Region, tools: Sequence[OfferedTool], opened: str) -> None:
        self._rules = rules
        self._region = region
        self._tools = tools
        self._opened = opened
        self._bodies: dict[str, str] = {}

    def grammar(self, *, is_parallel: bool) -> CallGrammar:
        body = self._region.body
        match body:
            # Several of these share what is around them.
            case JsonCalls(is_list=is_list, between=between) | PythonCalls(is_list=is_list, between=between) if between:
                start = self._in_one_region(is_list, between, is_parallel=is_parallel)
            case _:
                start = self._in_own_regions(is_parallel=is_parallel)
        return self._rules.finished(start, is_json=isinstance(body, JsonCalls | NamedJson))

    def _in_one_region(self, is_list: bool, between: str, *, is_parallel: bool) -> str:
        region, rules = self._region, self._rules
        item = rules.one_of([self._body(tool) for tool in self._tools])
        items = f"{item} ({rules.text(between)} {item})*" if is_parallel else item
        before = self._unopened(region.section[0] + region.wrap[0] + region.open) + "[" * is_list
        after = "]" * is_list + region.close + region.wrap[1] + region.section[1]
        return f"{rules.text(before)} {items} {rules.text(after)}".strip()

    def _in_own_regions(self, *, is_parallel: bool) -> str:
        region, rules = self._region, self._rules
        before = region.wrap[0] + region.open
        start = self._one_call(self._unopened(region.section[0] + before))
        if is_parallel:
            start += f" ({self._one_call(region.between + before)})*"
        return f"{start} {rules.text(region.section[1])}".rstrip()

    def _unopened(self, text: str) -> str:
        """What is left of the text before a call after what has opened it."""
        return text.partition(self._opened)[2] if self._opened else text

    def _one_call(self, before: str) -> str:
        """A call of any of the tools; `{name}` in what comes before it is the tool's."""
        region, rules = self._region, self._rules
        after = rules.text(region.close + region.wrap[1])
        calls = [
            f"{rules.text(before.replace('{name}', tool.name))} {self._body(tool)} {after}" for tool in self._tools
        ]
        return rules.one_of([call.strip() for call in calls])

    def _body(self, tool: OfferedTool) -> str:
        """The rule of a call between the region's opening and closing texts."""
        if tool.name not in self._bodies:
            self._bodies[tool.name] = self._rules.rule(self._written(tool))
        return self._bodies[tool.name]

    def _written(self, tool: OfferedTool) -> str:
        rules = self._rules
        match self._region.body:
            case JsonCalls(item=item):
                before, _, after = item.partition("{arguments}")
                name = json.dumps(tool.name, ensure_ascii=False)[1:-1]
                return f"{self._header(before, name)} {self._arguments(tool)} {rules.text(after)}"
            case NamedJson(headers=headers):
                return f"{self._header(headers[0], tool.name)} {self._arguments(tool)}"
            case TagCalls() as body:
                return f"{self._header(body.header, tool.name)} {self._tags(body, tool)} {rules.text(body.end)}"
            case ElementCalls() as body:
                return f"{self._header(body.header, tool.name)} {self._elements(body, tool)} {rules.text(body.end)}"
            case DictCalls() as body:
                before = self._header(body.header + "{", tool.name)
                return f"{before} {self._members(body, tool)} {rules.text('}')}"
            case PythonCalls():
                return f"{rules.text(f'{tool.name}(')} {self._keywords(tool)} {rules.text(')')}"

    def _arguments(self, tool: OfferedTool) -> str:
        return self._rules.schema(tool.name, tool.parameters, tool.parameters)

    def _header(self, template: str, name: str, kind: str = "") -> str:
        """A header's texts, its slots filled or free; an argument without a name may have any."""
        filled = {"name": name, "key": name, "kind": kind}
        free = {"index": _DIGITS, "id": _ID} | ({} if name else {"key": FREE_KEY})
        parts: list[str] = []
        text = ""
        for place, part in enumerate(template_parts(template)):
            if place % 2 and part in free:
                parts += [self._rules.text(text), free[part]]
                text = ""
            else:
                text += filled[part] if place % 2 else part
        return " ".join(filter(None, [*parts, self._rules.text(text)]))

    def _tags(self, body: TagCalls, tool: OfferedTool) -> str:
        template, line = body.parameters[0], "\n" if body.is_on_lines else ""
        forbidden = [regex_of([body.end, after]) for after in body.after]
        values = RawValues(self._rules, tool, forbidden, is_marked="{kind}" in template)
        begin, end = ("<![CDATA[", "]]>") if body.has_cdata else ("", "")

        def member(name: str, schema: Json) -> str:
            ways = values.ways(schema, end + line + body.value_close, line + body.value_close)
            types = declared_types(schema, tool.parameters)
            text = self._header(template + line + begin, name, "true" if _BOOLEAN_KIND in template else "string")
            other = self._header(template + line, name, "false" if _BOOLEAN_KIND in template else _kind(types))
            return self._rules.one_of(
                [f"{text} {way}" for way in ways.texts] + [f"{other} {way}" for way in ways.others]
            )

        return members_rule(self._rules, tool, member)

    def _elements(self, body: ElementCalls, tool: OfferedTool) -> str:
        values = RawValues(self._rules, tool, [regex_of([body.sign])])

        def member(name: str, schema: Json) -> str:
            # What is not declared has a closing tag that depends on its opening one.
            name = name or "value"
            return f"{self._rules.text(f'{body.sign}<{name}>')} {values.value(schema, f'{body.sign}</{name}>')}"

        return members_rule(self._rules, tool, member)

    def _members(self, body: DictCalls, tool: OfferedTool) -> str:
        values = RawValues(self._rules, tool, is_marked=True)

        def member(name: str, schema: Json) -> str:
            ways = values.ways(schema, body.quote, "")
            text, other = self._header(f"{{key}}:{body.quote}", name), self._header("{key}:", name)
            return self._rules.one_of(
                [f"{text} {way}" for way in ways.texts] + [f"{other} {way}" for way in ways.others]
            )

        return members_rule(self._rules, tool, member, ",")

    def _keywords(self, tool: OfferedTool) -> str:
        def member(name: str, schema: Json) -> str:
            return f"{self._header('{key}=', name)} {self._rules.schema(tool.name, schema, tool.parameters)}"

        return members_rule(self._rules, tool, member, ", ")


def _kind(types: frozenset[str]) -> str:
    """What a tag says of a value that is no text, where it says more."""
    return next((kind for kind in _KINDS if kind in types), "number")
