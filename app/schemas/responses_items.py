"""Items of the Responses API on the wire: what a response is made from, and what conversations hold.

Fields that are not named here are kept as they came. Source: https://platform.openai.com/docs/api-reference/responses
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from app.schemas.base import WireModel
from app.schemas.media import ImageDetail, InputAudio
from app.schemas.responses_tools import WireTool, field_of

MAX_ITEMS = 10_000

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Phase = Literal["commentary", "final_answer"]
ItemId = Annotated[str, Field(min_length=1, max_length=256)]

# Calls that other servers run or other clients made, and what came of them: kept, and not shown to the model.
OTHER_TYPES = frozenset(
    {
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "web_search_call",
    }
)


class KeptModel(WireModel):
    """A JSON object whose unknown fields are kept."""

    model_config = WireModel.model_config | {"extra": "allow"}


class ContentPart(KeptModel):
    """A piece of a message, an output or a thought; what a model cannot read is refused where it would have to."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    detail: ImageDetail | None = None
    input_audio: InputAudio | None = None
    annotations: list[JsonValue] | None = None
    logprobs: list[JsonValue] | None = None


Content = str | Annotated[list[ContentPart], Field(max_length=MAX_ITEMS)]


class Item(KeptModel):
    """What all items have; one without an id is given one."""

    id: ItemId | None = None
    status: ItemStatus | None = None


class MessageItem(Item):
    """Something said."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    phase: Phase | None = None


class FunctionCallItem(Item):
    """A function that the model called; `arguments` is JSON text."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class FunctionCallOutputItem(Item):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class CustomToolCallItem(Item):
    """A custom tool that the model called; `input` is any text."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: str | None = None


class CustomToolCallOutputItem(Item):
    """What the custom tool gave."""

    type: Literal["custom_tool_call_output"]
    call_id: str
    output: Content


class ReasoningItem(Item):
    """What the model thought; `encrypted_content` is what a response of this server had there, or another's."""

    type: Literal["reasoning"]
    summary: list[ContentPart] = Field(default_factory=list[ContentPart])
    content: list[ContentPart] | None = None
    encrypted_content: str | None = None


class ToolsItem(Item):
    """Tools that there are from here on, beside those of the request."""

    type: Literal["additional_tools", "tool_search_output"]
    tools: list[WireTool]


class ItemReference(WireModel):
    """Stands for an item that is kept under this id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


class OtherItem(Item):
    """One of `OTHER_TYPES`; its status may be of its own kind."""

    type: str
    status: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


# A tag with a space is left out where an error names a field.
_TAGS = {
    "message": "message item",
    "function_call": "function call",
    "function_call_output": "function output",
    "custom_tool_call": "custom call",
    "custom_tool_call_output": "custom output",
    "reasoning": "reasoning item",
    "additional_tools": "tools item",
    "tool_search_output": "tools item",
    "item_reference": "item reference",
}


def _tag(value: Any) -> str | None:
    kind = field_of(value, "type")
    if kind is None and field_of(value, "role") is not None:
        return "message item"
    if kind is None:
        return "item reference" if field_of(value, "id") is not None else None
    if not isinstance(kind, str):
        return None
    return _TAGS.get(kind) or ("other item" if kind in OTHER_TYPES else None)


KeptItem = (
    MessageItem
    | FunctionCallItem
    | FunctionCallOutputItem
    | CustomToolCallItem
    | CustomToolCallOutputItem
    | ReasoningItem
    | ToolsItem
    | OtherItem
)
WireItem = Annotated[
    Annotated[MessageItem, Tag("message item")]
    | Annotated[FunctionCallItem, Tag("function call")]
    | Annotated[FunctionCallOutputItem, Tag("function output")]
    | Annotated[CustomToolCallItem, Tag("custom call")]
    | Annotated[CustomToolCallOutputItem, Tag("custom output")]
    | Annotated[ReasoningItem, Tag("reasoning item")]
    | Annotated[ToolsItem, Tag("tools item")]
    | Annotated[ItemReference, Tag("item reference")]
    | Annotated[OtherItem, Tag("other item")],
    Discriminator(
        _tag,
        custom_error_type="unknown_item",
        custom_error_message="This is no item of a known type: it needs a 'type' such as 'message'",
    ),
]
WireItems = Annotated[list[WireItem], Field(max_length=MAX_ITEMS)]
