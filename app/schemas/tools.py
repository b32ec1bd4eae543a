"""Tools on the wire, as the chat API has them: nested under `function`, or flat as the Responses API has them."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.schemas.base import Unsupported, WireModel

MAX_TOOLS = 1024

# Wider than OpenAI's own pattern: MCP servers and other platforms have dots, colons and slashes in their names.
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]


class FunctionFields(WireModel):
    """What is said of a function; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class WireTool(WireModel):
    """A tool; other types than function are refused by the translation, which names them."""

    type: str = "function"
    function: FunctionFields | None = None
    name: ToolName | None = None
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class NamedFunction(WireModel):
    """A function by its name."""

    name: str


class ToolReference(WireModel):
    """A tool that must be called, or may be."""

    type: str = "function"
    function: NamedFunction | None = None
    name: str | None = None


class AllowedTools(WireModel):
    """The tools that may be called now."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolReference]


class NamedToolChoice(ToolReference):
    """A choice that names tools: one function, or those of `allowed_tools`."""

    allowed_tools: AllowedTools | None = None
    custom: Unsupported = None


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class ToolFields(WireModel):
    """The tools of a request."""

    tools: Annotated[list[WireTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CalledFunction(WireModel):
    """What was called; `arguments` is JSON text, from some clients the object itself."""

    name: str
    arguments: str | dict[str, JsonValue] = "{}"


class WireToolCall(WireModel):
    """A call that an assistant's message brings back."""

    id: str
    type: str = "function"
    function: CalledFunction
