"""Anthropic's tools and the choice among them, to the neutral ones."""

from typing import TypeVar

from app.api.messages.conversation import references
from app.api.tools import to_tool_use as from_tool_fields
from app.core.conversation import ToolUse
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.messages import CountTokensRequest, MessagesTool, MessagesToolChoice
from app.schemas.tools import NamedToolChoice, ToolChoice, ToolFields, WireTool

T = TypeVar("T")


def to_tool_use(body: CountTokensRequest) -> ToolUse | None:
    """The tools that the model knows of, and how free it is; None where there are none. Errors: InvalidRequest."""
    known = references(body.messages)
    choice = body.tool_choice or MessagesToolChoice(type="auto")
    return from_tool_fields(
        ToolFields(
            tools=[
                _tool(tool, f"tools[{index}]")
                for index, tool in enumerate(body.tools or ())
                if not tool.defer_loading or tool.name in known
            ],
            tool_choice=_choice(choice),
            parallel_tool_calls=not choice.disable_parallel_tool_use,
        )
    )


def _choice(choice: MessagesToolChoice) -> ToolChoice:
    match choice.type:
        case "any":
            return "required"
        case "tool":
            return NamedToolChoice(name=choice.name)
        case "auto" | "none":
            return choice.type


def _tool(tool: MessagesTool, path: str) -> WireTool:
    if tool.type not in {None, "custom"}:
        raise UnsupportedField(
            f"{path}.type", f"'{tool.type}' is run or known only by Anthropic; describe a tool with an input_schema"
        )
    name = _given(tool.name, f"{path}.name")
    schema = dict(_given(tool.input_schema, f"{path}.input_schema"))
    if schema.get("type", "object") != "object":
        raise InvalidRequest("A tool's input is an object.", param=f"{path}.input_schema.type")
    if tool.input_examples:
        schema["examples"] = tool.input_examples
    return WireTool(name=name, description=tool.description, parameters=schema, strict=tool.strict)


def _given(value: T | None, path: str) -> T:
    if value is None:
        raise InvalidRequest(f"'{path}' is missing.", param=path, code="missing_required_parameter")
    return value
