"""Chat completions that are kept, with `store: true`: what is put into the store, and the routes to it."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response
from loguru import logger

from app.api.bodies import body_docs, query_docs, read_body, read_query
from app.api.chat.encoding import ChatReply
from app.api.listing import list_reply
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, json_reply
from app.core.events import Event, Finished
from app.core.record import RequestRecord
from app.core.store import Store, StoreError
from app.core.store_objects import Page, StoredObject
from app.errors import NotFound
from app.schemas.chat import ChatCompletionRequest
from app.schemas.kept_chat import (
    CompletionList,
    CompletionListQuery,
    CompletionUpdate,
    DeletedCompletion,
    KeptCompletion,
    MessageList,
)
from app.schemas.responses import ListQuery

COMPLETION: Final = "chat.completion"
_MESSAGE: Final = "chat.completion.message"
_PATH: Final = "/v1/chat/completions"
# In the store's index beside the metadata: no client's key is empty.
_MODEL: Final = ""
_METADATA_FILTER: Final = re.compile(r"metadata\[(.+)\]")

router = APIRouter(tags=["chat"])
DOCUMENTED = (CompletionUpdate,)


@dataclass(frozen=True, slots=True)
class KeptCall:
    """A call whose whole reply is in the store before its end is told."""

    call: Call
    store: Store
    objects: Callable[[list[Event]], list[StoredObject]]

    @property
    def record(self) -> RequestRecord:
        """See `Work.record`."""
        return self.call.record

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[AsyncIterator[list[Event]]]:
        """See `Work.run`."""
        async with self.call.run() as stream:
            yield self._keep(stream)

    async def _keep(self, stream: AsyncIterator[list[Event]]) -> AsyncIterator[list[Event]]:
        events: list[Event] = []
        async for batch in stream:
            events += batch
            if isinstance(batch[-1], Finished):
                await self._put(self.objects(events))
            yield batch

    async def _put(self, objects: list[StoredObject]) -> None:
        """Store objects. The answer is worth more than that it is kept."""
        try:
            await self.store.put(objects)
        except StoreError as error:
            logger.error("request {}: the completion is not stored: {}", self.record.request_id, error)


def objects_of(reply: ChatReply, body: ChatCompletionRequest) -> Callable[[list[Event]], list[StoredObject]]:
    """What is to be stored of a reply when its events are there: the completion, then its messages."""
    metadata = body.metadata or {}

    def objects(events: list[Event]) -> list[StoredObject]:
        shown = msgspec.json.decode(reply.completion(events)) | {"metadata": metadata}
        whole = _stored(reply.id, shown, reply.created)
        messages = [
            message.model_dump(exclude_none=True) | {"id": f"{reply.id}-{index}"}
            for index, message in enumerate(body.messages)
        ]
        parts = [
            StoredObject(_MESSAGE, message["id"], msgspec.json.encode(message), reply.created, owner=reply.id)
            for message in messages
        ]
        return [whole, *parts]

    return objects


def _stored(completion_id: str, shown: dict[str, object], created: float) -> StoredObject:
    metadata = shown["metadata"]
    index = {**(metadata if isinstance(metadata, dict) else {}), _MODEL: str(shown["model"])}
    return StoredObject(COMPLETION, completion_id, msgspec.json.encode(shown), created, metadata=index)


@router.get(
    _PATH, responses=ERROR_DOCS | {200: {"model": CompletionList}}, openapi_extra=query_docs(CompletionListQuery)
)
async def list_completions(request: Request) -> Response:
    """The stored completions, the oldest first."""
    query = read_query(request, CompletionListQuery)
    wanted = {
        found[1]: value for name, value in request.query_params.items() if (found := _METADATA_FILTER.match(name))
    }
    if query.model is not None:
        wanted[_MODEL] = query.model
    page = Page(COMPLETION, "", query.limit, query.after, query.order == "asc", wanted)
    return list_reply(await _store(request).list_page(page))


@router.get(f"{_PATH}/{{completion_id}}", responses=ERROR_DOCS | {200: {"model": KeptCompletion}})
async def get_completion(request: Request, completion_id: str) -> Response:
    """A stored completion."""
    return json_reply((await _find(request, completion_id)).body)


@router.post(
    f"{_PATH}/{{completion_id}}",
    responses=ERROR_DOCS | {200: {"model": KeptCompletion}},
    openapi_extra=body_docs(CompletionUpdate),
)
async def update_completion(request: Request, completion_id: str) -> Response:
    """Give a stored completion other metadata."""
    body = await read_body(request, CompletionUpdate)
    found = await _find(request, completion_id)
    shown = msgspec.json.decode(found.body) | {"metadata": body.metadata or {}}
    changed = _stored(completion_id, shown, found.created)
    await _store(request).put([changed])
    return json_reply(changed.body)


@router.delete(f"{_PATH}/{{completion_id}}", responses=ERROR_DOCS)
async def delete_completion(request: Request, completion_id: str) -> DeletedCompletion:
    """Keep nothing of a completion."""
    if not await _store(request).delete(COMPLETION, completion_id):
        raise _unknown(completion_id)
    return DeletedCompletion(id=completion_id)


@router.get(
    f"{_PATH}/{{completion_id}}/messages",
    responses=ERROR_DOCS | {200: {"model": MessageList}},
    openapi_extra=query_docs(ListQuery),
)
async def list_messages(request: Request, completion_id: str) -> Response:
    """The messages that a stored completion answers."""
    query = read_query(request, ListQuery)
    await _find(request, completion_id)
    page = Page(_MESSAGE, completion_id, query.limit, query.after, is_ascending=query.order == "asc")
    return list_reply(await _store(request).list_page(page))


async def _find(request: Request, completion_id: str) -> StoredObject:
    found = await _store(request).get(COMPLETION, completion_id)
    if found is None:
        raise _unknown(completion_id)
    return found


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _unknown(completion_id: str) -> NotFound:
    return NotFound(f"There is no stored chat completion '{completion_id}'; only those made with 'store' are kept.")
