"""POST /v1/messages and count_tokens: Anthropic's API, to and from the neutral request and events."""

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.context import context_of
from app.api.continuation import check_is_free, continuing
from app.api.media.attachments import Attachments, translated
from app.api.messages.conversation import to_messages
from app.api.messages.encoding import MessagesReply, MessagesStream
from app.api.messages.errors import ERROR_DOCS
from app.api.messages.tools import to_tool_use
from app.api.output_format import schema_text
from app.api.replies import Call, StreamReply, UnaryReply
from app.core.conversation import Conversation, Effort, Reasoning
from app.core.events import Event, Tokenized
from app.core.output_format import JsonSchema
from app.core.requests import GenerationRequest, Sampling, TokenizeRequest
from app.schemas.messages import CountTokensRequest, MessagesRequest, OutputConfig
from app.schemas.messages_replies import MessageReply, TokenCount

router = APIRouter(tags=["messages"])

_EFFORTS: dict[str, Effort] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
_REPLY_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {
    200: {
        "model": MessageReply,
        "description": "The answer, or with `stream` its events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
DOCUMENTED = (MessagesRequest, CountTokensRequest)


@router.post("/v1/messages", responses=_REPLY_DOCS, openapi_extra=body_docs(MessagesRequest))
@router.post("/anthropic/v1/messages", include_in_schema=False)
async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    context = context_of(request)
    body = await read_body(request, MessagesRequest)
    asked = await translated(partial(to_generation, body), context.read_media)
    call = Call(context.registry, body.model, asked, context.record)
    reply = MessagesReply(
        body.model or context.registry.find(None).spec.name,
        hides_thinking=body.thinking is not None and body.thinking.display == "omitted",
        is_diagnosed=body.diagnostics is not None and body.diagnostics.previous_message_id is not None,
    )
    if body.stream:
        return StreamReply(call, MessagesStream(reply, context.record.request_id), context.heartbeat_s)
    return UnaryReply(call, reply.message)


@router.post(
    "/v1/messages/count_tokens",
    responses=ERROR_DOCS | {200: {"model": TokenCount}},
    openapi_extra=body_docs(CountTokensRequest),
)
@router.post("/anthropic/v1/messages/count_tokens", include_in_schema=False)
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a prompt, exactly, without answering it."""
    context = context_of(request)
    body = await read_body(request, CountTokensRequest)
    asked = TokenizeRequest(await translated(partial(to_conversation, body), context.read_media))
    return UnaryReply(Call(context.registry, body.model, asked, context.record), _token_count)


def to_generation(body: MessagesRequest, attachments: Attachments) -> GenerationRequest:
    """Translate a body. Errors: InvalidRequest."""
    asked = GenerationRequest(
        prompt=to_conversation(body, attachments),
        sampling=Sampling(body.temperature, body.top_p, body.top_k),
        max_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences or ()),
        output_format=_output_format(body),
    )
    check_is_free(asked)
    return asked


def to_conversation(body: CountTokensRequest, attachments: Attachments) -> Conversation:
    """Translate what makes the prompt. Errors: InvalidRequest."""
    conversation = Conversation(to_messages(body, attachments), to_tool_use(body), _reasoning(body))
    if body.messages[-1].role == "assistant":
        return continuing(conversation, f"messages[{len(body.messages) - 1}]")
    return conversation


def _reasoning(body: CountTokensRequest) -> Reasoning:
    asked = body.output_config or OutputConfig()
    effort = None if asked.effort is None else _EFFORTS[asked.effort]
    match body.thinking:
        case None:
            return Reasoning(effort=effort)
        case thinking if thinking.type == "disabled":
            return Reasoning(is_enabled=False)
        case thinking:
            return Reasoning(is_enabled=True, effort=effort, max_tokens=thinking.budget_tokens)


def _output_format(body: CountTokensRequest) -> JsonSchema | None:
    if body.output_config is not None and (asked := body.output_config.format) is not None:
        return JsonSchema(schema_text(asked.schema_, "output_config.format.schema"), strict=True)
    if body.output_format is not None:
        return JsonSchema(schema_text(body.output_format.schema_, "output_format.schema"), strict=True)
    return None


def _token_count(events: list[Event]) -> bytes:
    match events:
        case [*_, Tokenized(tokens)]:
            return msgspec.json.encode({"input_tokens": len(tokens)})
        case _:
            raise ValueError("a tokenize request ended without its tokens")
