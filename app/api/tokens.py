"""POST /v1/tokenize and /v1/detokenize, in vLLM's shapes."""

from functools import partial

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.chat.routes import to_generation
from app.api.context import context_of
from app.api.media.attachments import Attachments, translated
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, UnaryReply
from app.core.conversation import Conversation, RawPrompt
from app.core.events import Detokenized, Event, Tokenized
from app.core.requests import DetokenizeRequest, TokenizeRequest
from app.core.served_model import ServedModel
from app.schemas.tokens import (
    DetokenizeReply,
    DetokenizeRequestBody,
    TokenizeChatRequest,
    TokenizeReply,
    TokenizeRequestBody,
    TokenizeTextRequest,
)

router = APIRouter(tags=["tokens"])
DOCUMENTED = (TokenizeRequestBody, DetokenizeRequestBody)


@router.post(
    "/v1/tokenize",
    responses=ERROR_DOCS | {200: {"model": TokenizeReply}},
    openapi_extra=body_docs(TokenizeRequestBody),
)
@router.post("/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    """Say which tokens a text or a conversation is."""
    context = context_of(request)
    body = (await read_body(request, TokenizeRequestBody)).root
    prompt = await translated(partial(to_prompt, body), context.read_media)
    asked = TokenizeRequest(prompt, has_pieces=bool(body.return_token_strs))
    encode = partial(_tokenized, model=await context.registry.seek(body.model))
    return UnaryReply(Call(context.registry, body.model, asked, context.record), encode)


@router.post(
    "/v1/detokenize",
    responses=ERROR_DOCS | {200: {"model": DetokenizeReply}},
    openapi_extra=body_docs(DetokenizeRequestBody),
)
@router.post("/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    """Say which text some tokens are."""
    context = context_of(request)
    body = await read_body(request, DetokenizeRequestBody)
    return UnaryReply(Call(context.registry, body.model, DetokenizeRequest(body.tokens), context.record), _detokenized)


def to_prompt(body: TokenizeTextRequest | TokenizeChatRequest, attachments: Attachments) -> Conversation | RawPrompt:
    """What a completion or a chat completion of this body would be given. Errors: InvalidRequest."""
    if isinstance(body, TokenizeTextRequest):
        return RawPrompt(body.prompt, adds_special_tokens=body.add_special_tokens is not False)
    return to_generation(body, attachments).prompt


def _tokenized(events: list[Event], model: ServedModel) -> bytes:
    match events, model.info:
        case [Tokenized(tokens, pieces)], info if info is not None:
            counts = {"count": len(tokens), "max_model_len": info.context_length}
            return msgspec.json.encode(counts | {"tokens": tokens, "token_strs": pieces})
        case _:
            raise ValueError("a tokenize request ended without its tokens")


def _detokenized(events: list[Event]) -> bytes:
    match events:
        case [Detokenized(text)]:
            return msgspec.json.encode({"prompt": text})
        case _:
            raise ValueError("a detokenize request ended without its text")
