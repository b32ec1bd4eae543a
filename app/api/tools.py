"""Tools and the choice among them, from the wire to the neutral request."""

from collections.abc import Iterable

import msgspec

from app.core.conversation import Tool, ToolUse
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.tools import FunctionFields, NamedToolChoice, ToolFields, ToolReference, WireTool

_json = msgspec.json.Encoder().encode


def to_tool_use(body: ToolFields) -> ToolUse | None:
    """The tools of a request and how free the model is; None where there are none. Errors: InvalidRequest."""
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ()))
    names = [tool.name for tool in tools]
    if repeated := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise InvalidRequest(f"There are two tools named '{repeated}'; names must be unique.", param="tools")
    choice = body.tool_choice or "auto"
    is_parallel = body.parallel_tool_calls is not False
    if not tools:
        if choice in ("none", "auto"):
            return None
        raise InvalidRequest("'tool_choice' asks for a call, but there are no 'tools'.", param="tool_choice")
    if isinstance(choice, NamedToolChoice):
        return _named(tools, choice, is_parallel=is_parallel)
    return ToolUse(tools, choice, is_parallel=is_parallel)


def to_tool(function: FunctionFields) -> Tool:
    """A function as the model is told of it."""
    if function.parameters is None:
        return Tool(function.name, function.description, strict=bool(function.strict))
    return Tool(function.name, function.description, _json(function.parameters).decode(), bool(function.strict))


def _named(tools: tuple[Tool, ...], choice: NamedToolChoice, *, is_parallel: bool) -> ToolUse:
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise InvalidRequest("'tool_choice.allowed_tools' is missing.", param="tool_choice.allowed_tools")
        allowed = _known(choice.allowed_tools.tools, tools)
        return ToolUse(tools, choice.allowed_tools.mode, allowed, is_parallel)
    # One function by name is one call: there is no other to make beside it.
    return ToolUse(tools, "required", _known([choice], tools), is_parallel=False)


def _known(references: Iterable[ToolReference], tools: tuple[Tool, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for reference in references:
        name = reference.function.name if reference.function is not None else reference.name
        if reference.type != "function":
            raise UnsupportedField("tool_choice", f"tools of type '{reference.type}' cannot be called")
        if name is None:
            raise InvalidRequest("'tool_choice' must name a function.", param="tool_choice")
        if name not in {tool.name for tool in tools}:
            raise InvalidRequest(f"'tool_choice' names '{name}', which is not among the tools.", param="tool_choice")
        names.append(name)
    if not names:
        raise InvalidRequest("'tool_choice' allows no tool; use \"none\".", param="tool_choice")
    return tuple(dict.fromkeys(names))


def _tool(tool: WireTool, path: str) -> Tool:
    if tool.type != "function":
        raise UnsupportedField(f"{path}.type", f"tools of type '{tool.type}' cannot be called; describe a function")
    if tool.function is not None:
        return to_tool(tool.function)
    if tool.name is None:
        raise InvalidRequest(
            f"'{path}.function' is missing.", param=f"{path}.function", code="missing_required_parameter"
        )
    return to_tool(
        FunctionFields(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
    )
