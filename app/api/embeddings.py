"""POST /v1/embeddings: OpenAI's embeddings API, to and from the neutral request and events."""

import base64
from array import array
from functools import partial

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, UnaryReply
from app.core.events import Embedded, Event
from app.core.requests import EmbeddingRequest
from app.schemas.embeddings import EmbeddingsReply, EmbeddingsRequest

router = APIRouter(tags=["embeddings"])
DOCUMENTED = (EmbeddingsRequest,)


@router.post(
    "/v1/embeddings",
    responses=ERROR_DOCS | {200: {"model": EmbeddingsReply}},
    openapi_extra=body_docs(EmbeddingsRequest),
)
@router.post("/embeddings", include_in_schema=False)
async def create_embeddings(request: Request) -> Response:
    """Turn texts into vectors."""
    context = context_of(request)
    body = await read_body(request, EmbeddingsRequest)
    asked = EmbeddingRequest(_inputs(body.input), body.dimensions)
    shown_model = body.model or context.registry.find(None).spec.name
    encode = partial(_reply, model=shown_model, in_base64=body.encoding_format == "base64")
    return UnaryReply(Call(context.registry, body.model, asked, context.record), encode)


def _inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """A list of inputs, from one text, several, one token array or several."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [one for one in given if not isinstance(one, int)]


def _reply(events: list[Event], model: str, in_base64: bool) -> bytes:
    match events:
        case [*_, Embedded(vectors, usage)]:
            encode = _base64 if in_base64 else _numbers
            data = [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ]
            counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
            return msgspec.json.encode({"object": "list", "model": model, "data": data, "usage": counts})
        case _:
            raise ValueError("an embedding request ended without its vectors")


def _numbers(vector: bytes) -> list[float]:
    return array("f", vector).tolist()


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")
