"""What is kept of responses and conversations, and what a new response takes from it."""

from collections.abc import Collection, Iterable

from app.api.responses.items import completed, read_item
from app.api.responses.order import Input
from app.core.store import Store
from app.core.store_objects import StoredObject
from app.errors import InvalidRequest, NotFound
from app.schemas.responses import ConversationReference, ResponseRequest
from app.schemas.responses_items import ItemReference, KeptItem, MessageItem, WireItem

RESPONSE = "response"
RESPONSE_INPUT = "response.input"
RESPONSE_OUTPUT = "response.output"
CONVERSATION = "conversation"
CONVERSATION_ITEM = "conversation.item"


def conversation_of(body: ResponseRequest) -> str | None:
    """The id of the conversation that a response belongs to. Errors: InvalidRequest."""
    asked = body.conversation.id if isinstance(body.conversation, ConversationReference) else body.conversation
    if asked is not None and body.previous_response_id is not None:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' exclude each other; give one.",
            param="conversation",
            code="mutually_exclusive_parameters",
        )
    return asked


async def read_input(store: Store, body: ResponseRequest, running: Collection[str]) -> Input:
    """All that a response is made from; `running` are the ids of responses that are not done yet.

    Errors: InvalidRequest, NotFound.
    """
    history: list[KeptItem] = []
    if (previous := body.previous_response_id) is not None:
        if previous in running:
            raise InvalidRequest(
                f"The response '{previous}' is still in progress; continue it when it is done.",
                param="previous_response_id",
                code="previous_response_in_progress",
            )
        history = await _previous(store, previous)
    elif (conversation_id := conversation_of(body)) is not None:
        kept = await store.history(CONVERSATION, conversation_id)
        if kept.missing is not None:
            raise no_conversation(conversation_id)
        history = [read_item(part) for part in kept.parts]
    if isinstance(body.input, str):
        return Input(history, completed([MessageItem(type="message", role="user", content=body.input)]))
    return Input(history, await resolved(store, body.input or ()))


async def resolved(store: Store, items: Iterable[WireItem]) -> list[KeptItem]:
    """Completed items, with what references stand for in their place. Errors: NotFound."""
    given = list(items)
    found = await store.find_parts([item.id for item in given if isinstance(item, ItemReference)])
    return completed([_referenced(item, found) if isinstance(item, ItemReference) else item for item in given])


def no_response(response_id: str) -> NotFound:
    """The error for a response that is not there."""
    return NotFound(f"Response with id '{response_id}' not found.", param="response_id")


def no_conversation(conversation_id: str) -> NotFound:
    """The error for a conversation that is not there."""
    return NotFound(f"Conversation with id '{conversation_id}' not found.", param="conversation")


async def _previous(store: Store, response_id: str) -> list[KeptItem]:
    kept = await store.history(RESPONSE, response_id)
    if kept.missing is not None:
        raise InvalidRequest(
            f"Previous response with id '{kept.missing}' not found: it was not stored, was deleted, or has expired.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return [read_item(part) for part in kept.parts]


def _referenced(reference: ItemReference, found: dict[str, StoredObject]) -> KeptItem:
    if reference.id not in found:
        raise NotFound(
            f"Item with id '{reference.id}' not found. Items are not kept when 'store' is false, and not for ever.",
            param="input",
        )
    return read_item(found[reference.id])
