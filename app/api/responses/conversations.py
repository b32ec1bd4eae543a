"""/v1/conversations: OpenAI's Conversations API; what responses say in one is added to it."""

import time

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, query_docs, read_body, read_query
from app.api.listing import list_reply
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import json_reply
from app.api.responses.ids import new_id
from app.api.responses.items import stored_items
from app.api.responses.kept import CONVERSATION, CONVERSATION_ITEM, no_conversation, resolved
from app.api.responses.routes import desk_of
from app.core.store import Store
from app.core.store_objects import Listing, Page, StoredObject
from app.errors import NotFound
from app.schemas.conversations import (
    ConversationBody,
    ConversationRequest,
    ConversationUpdate,
    DeletedConversation,
    NewItems,
)
from app.schemas.responses import ItemList, ListQuery

router = APIRouter(tags=["conversations"], responses=ERROR_DOCS)
DOCUMENTED = (ConversationRequest, ConversationUpdate, NewItems)


@router.post("/v1/conversations", openapi_extra=body_docs(ConversationRequest))
@router.post("/conversations", include_in_schema=False)
async def create_conversation(request: Request) -> ConversationBody:
    """Begin a conversation."""
    body = await read_body(request, ConversationRequest)
    store = _store_of(request)
    shown = ConversationBody(id=new_id("conv"), created_at=int(time.time()), metadata=body.metadata or {})
    items = await resolved(store, body.items or ())
    await store.put([_stored(shown), *stored_items(items, CONVERSATION_ITEM, shown.id, shown.created_at)])
    return shown


@router.get("/v1/conversations/{conversation_id}")
@router.get("/conversations/{conversation_id}", include_in_schema=False)
async def get_conversation(request: Request, conversation_id: str) -> ConversationBody:
    """A conversation without its items."""
    return await _conversation(_store_of(request), conversation_id)


@router.post("/v1/conversations/{conversation_id}", openapi_extra=body_docs(ConversationUpdate))
@router.post("/conversations/{conversation_id}", include_in_schema=False)
async def update_conversation(request: Request, conversation_id: str) -> ConversationBody:
    """Give a conversation other metadata."""
    body = await read_body(request, ConversationUpdate)
    store = _store_of(request)
    found = await _conversation(store, conversation_id)
    shown = found.model_copy(update={"metadata": body.metadata or {}})
    await store.put([_stored(shown)])
    return shown


@router.delete("/v1/conversations/{conversation_id}")
@router.delete("/conversations/{conversation_id}", include_in_schema=False)
async def delete_conversation(request: Request, conversation_id: str) -> DeletedConversation:
    """Keep nothing of a conversation; its responses stay."""
    if not await _store_of(request).delete(CONVERSATION, conversation_id):
        raise no_conversation(conversation_id)
    return DeletedConversation(id=conversation_id)


@router.post(
    "/v1/conversations/{conversation_id}/items",
    responses={200: {"model": ItemList}},
    openapi_extra=body_docs(NewItems),
)
@router.post("/conversations/{conversation_id}/items", include_in_schema=False)
async def create_items(request: Request, conversation_id: str) -> Response:
    """Add items; one whose id is there already takes its place."""
    body = await read_body(request, NewItems)
    store = _store_of(request)
    await _conversation(store, conversation_id)
    items = stored_items(await resolved(store, body.items), CONVERSATION_ITEM, conversation_id, int(time.time()))
    await store.put(items)
    return list_reply(Listing(items, has_more=False))


@router.get(
    "/v1/conversations/{conversation_id}/items",
    responses={200: {"model": ItemList}},
    openapi_extra=query_docs(ListQuery),
)
@router.get("/conversations/{conversation_id}/items", include_in_schema=False)
async def list_items(request: Request, conversation_id: str) -> Response:
    """What was said, the newest first."""
    query = read_query(request, ListQuery)
    store = _store_of(request)
    await _conversation(store, conversation_id)
    is_ascending = query.order == "asc"
    page = Page(CONVERSATION_ITEM, conversation_id, query.limit, query.after, is_ascending=is_ascending)
    return list_reply(await store.list_page(page))


@router.get("/v1/conversations/{conversation_id}/items/{item_id}")
@router.get("/conversations/{conversation_id}/items/{item_id}", include_in_schema=False)
async def get_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """An item."""
    found = await _store_of(request).get(CONVERSATION_ITEM, item_id, conversation_id)
    if found is None:
        raise _no_item(conversation_id, item_id)
    return json_reply(found.body)


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
@router.delete("/conversations/{conversation_id}/items/{item_id}", include_in_schema=False)
async def delete_item(request: Request, conversation_id: str, item_id: str) -> ConversationBody:
    """Take an item out of a conversation."""
    store = _store_of(request)
    if not await store.delete(CONVERSATION_ITEM, item_id, conversation_id):
        raise _no_item(conversation_id, item_id)
    return await _conversation(store, conversation_id)


def _store_of(request: Request) -> Store:
    return desk_of(request).place.store


async def _conversation(store: Store, conversation_id: str) -> ConversationBody:
    """Errors: NotFound."""
    found = await store.get(CONVERSATION, conversation_id)
    if found is None:
        raise no_conversation(conversation_id)
    return ConversationBody.model_validate_json(found.body)


def _stored(shown: ConversationBody) -> StoredObject:
    body = msgspec.json.encode(shown.model_dump())
    return StoredObject(CONVERSATION, shown.id, body, shown.created_at, metadata=shown.metadata)


def _no_item(conversation_id: str, item_id: str) -> NotFound:
    return NotFound(f"Item with id '{item_id}' not found in conversation '{conversation_id}'.", param="item_id")
