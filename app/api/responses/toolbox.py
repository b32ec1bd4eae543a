"""The tools of a request: what the model is told of them, and what the client calls them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from app.api.tools import to_tool
from app.core.conversation import Tool, ToolUse
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.responses_tools import (
    CustomTool,
    FunctionTool,
    HostedTool,
    NamedToolChoice,
    NamespaceTool,
    ToolChoice,
    ToolReference,
    WireTool,
)

# Codex calls its own tools' namespace so; they have no other name for the model.
_NO_NAMESPACE = "functions"
# A model that calls functions only is told that a custom tool is one, of this parameter.
CUSTOM_PARAMETER = "input"
_CUSTOM_SCHEMA = msgspec.json.encode(
    {
        "type": "object",
        "properties": {
            CUSTOM_PARAMETER: {"type": "string", "description": "The whole input of the tool, as plain text."}
        },
        "required": [CUSTOM_PARAMETER],
        "additionalProperties": False,
    }
).decode()


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that the model may call, and the client's name for it."""

    tool: Tool
    name: str
    namespace: str | None = None
    is_custom: bool = False


class Toolbox:
    """The callable ones of a request's tools, by the names that the model knows."""

    def __init__(self, tools: Sequence[WireTool]) -> None:
        """Errors: InvalidRequest when two have one name."""
        self._offers: dict[str, Offer] = {}
        for offer in _offers(tools):
            if offer.tool.name in self._offers:
                raise InvalidRequest(
                    f"There are two tools named '{offer.tool.name}'; names must be unique.", param="tools"
                )
            self._offers[offer.tool.name] = offer

    def find(self, name: str) -> Offer:
        """The tool that the model calls so."""
        return self._offers.get(name) or Offer(Tool(name), name)

    def tool_use(self, choice: ToolChoice | None, *, is_parallel: bool) -> ToolUse | None:
        """The tools and how free the model is; None where there are none. Errors: InvalidRequest."""
        tools = tuple(offer.tool for offer in self._offers.values())
        match choice:
            case NamedToolChoice(type="allowed_tools"):
                allowed = self._allowed(choice.tools or ())
                if not allowed and choice.mode == "required":
                    raise InvalidRequest("'tool_choice' requires a call, but allows no function.", param="tool_choice")
                return ToolUse(tools, choice.mode if allowed else "none", allowed, is_parallel) if tools else None
            case NamedToolChoice():
                # One tool by name is one call: there is no other to make beside it.
                return ToolUse(tools, "required", (self._named(choice),), is_parallel=False)
            case _:
                if not tools and choice == "required":
                    raise InvalidRequest(
                        "'tool_choice' requires a call, but there is no function.", param="tool_choice"
                    )
                return ToolUse(tools, choice or "auto", is_parallel=is_parallel) if tools else None

    def _allowed(self, references: Iterable[ToolReference]) -> tuple[str, ...]:
        """The names of those that can be called; there may be others among them."""
        names = [self._named(one) for one in references if one.type in ("function", "custom")]
        spaces = {one.name for one in references if one.type == "namespace"}
        names += [name for name, offer in self._offers.items() if offer.namespace in spaces]
        return tuple(dict.fromkeys(names))

    def _named(self, reference: ToolReference) -> str:
        if reference.type not in ("function", "custom"):
            raise UnsupportedField("tool_choice", f"tools of type '{reference.type}' cannot be called")
        if reference.name is None:
            raise InvalidRequest("'tool_choice' must name a tool.", param="tool_choice.name")
        full_name = joined(reference.namespace, reference.name)
        if full_name in self._offers:
            return full_name
        # A name within a namespace will do where it is the only one.
        inner = [name for name, offer in self._offers.items() if offer.name == reference.name]
        if len(inner) != 1 or reference.namespace is not None:
            raise InvalidRequest(
                f"'tool_choice' names '{full_name}', which is not among the tools.", param="tool_choice"
            )
        return inner[0]


def joined(namespace: str | None, name: str) -> str:
    """The model's name for a tool of a namespace."""
    if namespace is None or namespace == _NO_NAMESPACE:
        return name
    return f"{namespace}{'' if namespace.endswith('__') else '__'}{name}"


def _offers(tools: Sequence[WireTool]) -> Iterator[Offer]:
    for tool in tools:
        match tool:
            case FunctionTool() | CustomTool():
                yield _offer(tool)
            case NamespaceTool():
                for inner in tool.tools:
                    yield _offer(inner, tool.name)
            case HostedTool():
                pass


def _offer(tool: FunctionTool | CustomTool, namespace: str | None = None) -> Offer:
    name = joined(namespace, tool.name)
    match tool:
        case FunctionTool():
            return Offer(to_tool(tool.model_copy(update={"name": name})), tool.name, namespace)
        case CustomTool():
            return Offer(Tool(name, _described(tool), _CUSTOM_SCHEMA), tool.name, namespace, is_custom=True)


def _described(tool: CustomTool) -> str | None:
    """The description, with the grammar that its input keeps to."""
    grammar = tool.format.definition if tool.format is not None else None
    if tool.format is None or not grammar:
        return tool.description
    rule = f"The input must match this {tool.format.syntax or 'lark'} grammar:\n{grammar}"
    return f"{tool.description}\n\n{rule}" if tool.description else rule
