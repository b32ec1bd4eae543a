"""/v1/responses: OpenAI's Responses API, to and from the neutral request and events."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, query_docs, read_body, read_query
from app.api.context import context_of
from app.api.listing import list_reply, page_of
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, UnaryReply, json_reply
from app.api.responses.desk import ResponseDesk
from app.api.responses.kept import RESPONSE, RESPONSE_INPUT, no_response
from app.api.responses.replies import FollowReply, ResponseReply
from app.api.responses.response_object import error_json
from app.core.events import Event, Tokenized
from app.core.requests import TokenizeRequest
from app.core.store_objects import Page, StoredObject
from app.errors import InternalError, InvalidRequest
from app.schemas.responses import (
    DeletedResponse,
    InputTokenCount,
    ItemList,
    ListQuery,
    ResponseBody,
    ResponseEvent,
    ResponseRequest,
    RetrieveQuery,
)

router = APIRouter(tags=["responses"])

_REPLY_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {
    200: {
        "model": ResponseBody,
        "description": "The response, or with `stream` its events as server-sent events.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ResponseEvent"}}},
    }
}
DOCUMENTED = (ResponseRequest, ResponseEvent)


def desk_of(request: Request) -> ResponseDesk:
    """The application's desk."""
    return request.app.state.response_desk


@router.post("/v1/responses", responses=_REPLY_DOCS, openapi_extra=body_docs(ResponseRequest))
@router.post("/responses", include_in_schema=False)
async def create_response(request: Request) -> Response:
    """Answer an input, and keep the answer."""
    context = context_of(request)
    body = await read_body(request, ResponseRequest)
    if body.background and body.store is False:
        raise InvalidRequest("A response in the background is stored: 'store' cannot be false.", param="store")
    context.record.timeout_s = body.timeout
    return ResponseReply(desk_of(request), body, context)


@router.post(
    "/v1/responses/input_tokens",
    responses=ERROR_DOCS | {200: {"model": InputTokenCount}},
    openapi_extra=body_docs(ResponseRequest),
)
@router.post("/responses/input_tokens", include_in_schema=False)
async def count_input_tokens(request: Request) -> Response:
    """Say how many tokens an input has, its history and tools included."""
    context = context_of(request)
    body = await read_body(request, ResponseRequest)
    asked = TokenizeRequest((await desk_of(request).read(body)).conversation)
    return UnaryReply(Call(context.registry, body.model, asked, context.record), _count)


@router.get("/v1/responses/{response_id}", responses=_REPLY_DOCS, openapi_extra=query_docs(RetrieveQuery))
@router.get("/responses/{response_id}", include_in_schema=False)
async def get_response(request: Request, response_id: str) -> Response:
    """A response as it stands, or its events."""
    query = read_query(request, RetrieveQuery)
    desk = desk_of(request)
    response = await _response(desk, response_id)
    if not query.stream:
        if query.starting_after is not None:
            raise InvalidRequest("'starting_after' needs 'stream'.", param="starting_after")
        return json_reply(response)
    after = -1 if query.starting_after is None else query.starting_after
    return FollowReply(desk.log_of(response_id), after, context_of(request).heartbeat_s)


@router.delete("/v1/responses/{response_id}", responses=ERROR_DOCS)
@router.delete("/responses/{response_id}", include_in_schema=False)
async def delete_response(request: Request, response_id: str) -> DeletedResponse:
    """Keep nothing of a response; one in the background is ended."""
    desk = desk_of(request)
    was_running = await desk.forget(response_id)
    if not await desk.place.store.delete(RESPONSE, response_id) and not was_running:
        raise no_response(response_id)
    return DeletedResponse(id=response_id)


@router.post("/v1/responses/{response_id}/cancel", responses=ERROR_DOCS | {200: {"model": ResponseBody}})
@router.post("/responses/{response_id}/cancel", include_in_schema=False)
async def cancel_response(request: Request, response_id: str) -> Response:
    """End a response in the background; one that is done is shown as it is."""
    desk = desk_of(request)
    response = await _response(desk, response_id)
    if not msgspec.json.decode(response)["background"]:
        raise InvalidRequest("Cannot cancel a synchronous response: only those in the background.", param="response_id")
    await desk.cancel(response_id)
    return json_reply(await _response(desk, response_id))


@router.get(
    "/v1/responses/{response_id}/input_items",
    responses=ERROR_DOCS | {200: {"model": ItemList}},
    openapi_extra=query_docs(ListQuery),
)
@router.get("/responses/{response_id}/input_items", include_in_schema=False)
async def list_input_items(request: Request, response_id: str) -> Response:
    """What a response was made from, the newest first: with what it continues, as far as that is kept."""
    query = read_query(request, ListQuery)
    store = desk_of(request).place.store
    kept = await store.history(RESPONSE, response_id)
    if kept.missing == response_id:
        raise no_response(response_id)
    if kept.missing is None:
        return list_reply(page_of([part for part in kept.parts if not _is_output(part, response_id)], query))
    own = Page(RESPONSE_INPUT, response_id, query.limit, query.after, is_ascending=query.order == "asc")
    return list_reply(await store.list_page(own))


async def _response(desk: ResponseDesk, response_id: str) -> bytes:
    """A response as it is being made or as it is kept. Errors: NotFound."""
    making = desk.running.get(response_id)
    if making is not None and making.about.is_stored:
        return making.response
    stored = await desk.place.store.get(RESPONSE, response_id)
    if stored is None:
        raise no_response(response_id)
    return _interrupted(stored.body)


def _interrupted(response: bytes) -> bytes:
    """A response that nobody makes any more has failed: the server ended before it was done."""
    shown = msgspec.json.decode(response)
    if shown["status"] not in ("queued", "in_progress"):
        return response
    error = InternalError("The server ended while it made this response.")
    return msgspec.json.encode(shown | {"status": "failed", "error": error_json(error)})


def _is_output(part: StoredObject, response_id: str) -> bool:
    return part.owner == response_id and part.kind != RESPONSE_INPUT


def _count(events: list[Event]) -> bytes:
    match events:
        case [*_, Tokenized(tokens)]:
            return InputTokenCount(input_tokens=len(tokens)).model_dump_json().encode()
        case _:
            raise ValueError("a tokenize request ended without its tokens")
