"""Tools of the Responses API on the wire.

Source: https://platform.openai.com/docs/api-reference/responses/create, and what Codex sends.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from app.schemas.base import WireModel
from app.schemas.tools import MAX_TOOLS, FunctionFields, ToolName


class FunctionTool(FunctionFields):
    """A function that the client runs."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: Literal["function"]


class CustomFormat(WireModel):
    """What a custom tool's input looks like: any text, or text of a grammar."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(WireModel):
    """A tool that takes any text."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: Literal["custom"]
    name: ToolName
    description: str | None = None
    format: CustomFormat | None = None


def field_of(value: object, name: str) -> object:
    """A field of a JSON object, or of the model that was made from it, which is looked at when it is written again."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else getattr(value, name, None)


def _inner_tag(value: Any) -> str | None:
    kind = field_of(value, "type")
    return f"{kind} tool" if kind in ("function", "custom") else None


def _tag(value: Any) -> str | None:
    kind = field_of(value, "type")
    if not isinstance(kind, str):
        return None
    return f"{kind} tool" if kind in ("function", "custom", "namespace") else "hosted tool"


class NamespaceTool(WireModel):
    """Tools under a common name, as Codex lists those of an MCP server."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: Annotated[
        list[
            Annotated[
                Annotated[FunctionTool, Tag("function tool")] | Annotated[CustomTool, Tag("custom tool")],
                Discriminator(
                    _inner_tag,
                    custom_error_type="unknown_tool",
                    custom_error_message="A namespace has tools of type 'function' and 'custom'",
                ),
            ]
        ],
        Field(max_length=MAX_TOOLS),
    ]


class HostedTool(WireModel):
    """A tool that OpenAI runs itself: it may be listed, and there is none here."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: str


WireTool = Annotated[
    Annotated[FunctionTool, Tag("function tool")]
    | Annotated[CustomTool, Tag("custom tool")]
    | Annotated[NamespaceTool, Tag("namespace tool")]
    | Annotated[HostedTool, Tag("hosted tool")],
    Discriminator(
        _tag, custom_error_type="unknown_tool", custom_error_message="A tool needs a 'type' such as 'function'"
    ),
]


class ToolReference(WireModel):
    """A tool that may be called, by its type and name; those of hosted tools have other fields."""

    model_config = WireModel.model_config | {"extra": "allow"}

    type: str
    name: str | None = None
    namespace: str | None = None


class NamedToolChoice(ToolReference):
    """A choice that names tools: one, or those of `allowed_tools`."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[ToolReference] | None = None


def word_or_object(value: Any) -> str:
    """Which of the two a value is; the tags, as they have spaces, are left out where an error names a field."""
    return "a word" if isinstance(value, str) else "an object"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("a word")] | Annotated[NamedToolChoice, Tag("an object")],
    Discriminator(word_or_object),
]
