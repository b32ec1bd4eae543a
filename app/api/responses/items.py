"""Items as they are kept: each with an id, a status and its content in parts."""

from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter, ValidationError

from app.api.responses.ids import new_id
from app.core.store_objects import StoredObject
from app.errors import InternalError
from app.schemas.responses_items import (
    Content,
    ContentPart,
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    ItemReference,
    KeptItem,
    MessageItem,
    OtherItem,
    ReasoningItem,
    ToolsItem,
    WireItem,
)

_ITEM: TypeAdapter[KeptItem | ItemReference] = TypeAdapter(WireItem)
_PREFIXES: dict[type[KeptItem], str] = {
    MessageItem: "msg",
    FunctionCallItem: "fc",
    FunctionCallOutputItem: "fco",
    CustomToolCallItem: "ctc",
    CustomToolCallOutputItem: "ctco",
    ReasoningItem: "rs",
    ToolsItem: "item",
    OtherItem: "item",
}


def completed(items: Iterable[KeptItem]) -> list[KeptItem]:
    """Items with what they lack; one whose id another has is given one of its own."""
    taken: set[str] = set()
    done: list[KeptItem] = []
    for item in items:
        item_id = item.id if item.id is not None and item.id not in taken else new_id(_PREFIXES[type(item)])
        taken.add(item_id)
        done.append(_completed(item, item_id))
    return done


def item_json(item: KeptItem) -> bytes:
    """An item as it is shown and kept."""
    return item.model_dump_json(exclude_none=True).encode()


def stored_items(items: Sequence[KeptItem], kind: str, owner: str, created: float) -> list[StoredObject]:
    """Completed items as parts of a stored object."""
    return [StoredObject(kind, str(item.id), item_json(item), created, owner) for item in items]


def read_item(stored: StoredObject) -> KeptItem:
    """The item that was stored."""
    try:
        item = _ITEM.validate_json(stored.body)
    except ValidationError as error:
        raise InternalError(f"The stored item '{stored.id}' cannot be read.") from error
    if isinstance(item, ItemReference):
        raise InternalError(f"The stored item '{stored.id}' is none.")
    return item


def _completed(item: KeptItem, item_id: str) -> KeptItem:
    filled: dict[str, object] = {"id": item_id}
    match item:
        case MessageItem():
            is_answer = item.role == "assistant"
            filled["type"] = "message"
            filled["status"] = item.status or "completed"
            filled["content"] = _parts(item.content, "output_text" if is_answer else "input_text")
        case FunctionCallItem() | FunctionCallOutputItem() | CustomToolCallItem() | CustomToolCallOutputItem():
            filled["status"] = item.status or "completed"
        case ReasoningItem() | ToolsItem() | OtherItem():
            pass
    return item.model_copy(update=filled)


def _parts(content: Content, kind: str) -> list[ContentPart]:
    if isinstance(content, str):
        return [_part(ContentPart(type=kind, text=content), kind)]
    return [_part(part, kind) for part in content]


def _part(part: ContentPart, kind: str) -> ContentPart:
    """A part of the type that belongs here, where it is called otherwise; an answer's text has lists with it."""
    if part.type not in ("text", "input_text", "output_text"):
        return part
    filled: dict[str, object] = {"type": kind}
    if kind == "output_text":
        filled |= {"annotations": part.annotations or [], "logprobs": part.logprobs or []}
    return part.model_copy(update=filled)
