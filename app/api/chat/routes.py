"""POST /v1/chat/completions: OpenAI's chat API, to and from the neutral request and events."""

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.chat.encoding import ChatReply, ChatStream
from app.api.chat.kept import KeptCall, objects_of
from app.api.chat.messages import to_messages
from app.api.context import context_of
from app.api.continuation import check_is_free, continuing
from app.api.media.attachments import Attachments, translated
from app.api.openai_errors import ERROR_DOCS
from app.api.output_format import to_output_format
from app.api.replies import Call, StreamReply, UnaryReply
from app.api.sampling_fields import to_sampling, to_stops
from app.api.tools import to_tool_use
from app.core.conversation import Conversation, Reasoning
from app.core.requests import GenerationRequest
from app.errors import InvalidRequest
from app.schemas.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ReasoningOptions,
)

router = APIRouter(tags=["chat"])

_REPLY_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {
    200: {
        "model": ChatCompletion,
        "description": "The answer, or with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatCompletionChunk"}}},
    }
}
DOCUMENTED = (ChatCompletionRequest, ChatCompletionChunk)


@router.post("/v1/chat/completions", responses=_REPLY_DOCS, openapi_extra=body_docs(ChatCompletionRequest))
@router.post("/chat/completions", include_in_schema=False)
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    context = context_of(request)
    body = await read_body(request, ChatCompletionRequest)
    context.record.timeout_s = body.timeout
    asked = await translated(partial(to_generation, body), context.read_media)
    call = Call(context.registry, body.model, asked, context.record)
    shown_model = body.model or context.registry.find(None).spec.name
    includes_usage = bool(body.stream_options and body.stream_options.include_usage)
    reply = ChatReply(shown_model, num_choices=body.n or 1, includes_usage=includes_usage)
    work = KeptCall(call, request.app.state.store, objects_of(reply, body)) if body.store else call
    if body.stream:
        return StreamReply(work, ChatStream(reply, context.record.request_id), context.heartbeat_s)
    return UnaryReply(work, reply.completion)


def to_generation(body: ChatCompletionRequest, attachments: Attachments) -> GenerationRequest:
    """Translate a body. Errors: InvalidRequest."""
    asked = GenerationRequest(
        prompt=_conversation(body, attachments),
        sampling=to_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=to_stops(body.stop),
        output_format=to_output_format(body),
        num_choices=body.n or 1,
        top_logprobs=_top_logprobs(body),
        cache_namespace=body.prompt_cache_key or "",
        repetition_guard=body.repetition_guard,
    )
    check_is_free(asked)
    return asked


def _conversation(body: ChatCompletionRequest, attachments: Attachments) -> Conversation:
    conversation = Conversation(
        messages=to_messages(body.messages, attachments),
        tools=to_tool_use(body),
        reasoning=_reasoning(body),
        template_arguments=_template_arguments(body.chat_template_kwargs),
        opens_answer=body.add_generation_prompt is not False,
    )
    if not body.continue_final_message:
        return conversation
    if body.add_generation_prompt:
        raise InvalidRequest("With 'continue_final_message' there is no 'add_generation_prompt'.", param="messages")
    return continuing(conversation)


def _top_logprobs(body: ChatCompletionRequest) -> int | None:
    """How many candidates beside each token; None when log-probabilities are not asked for at all."""
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    return None


def _reasoning(body: ChatCompletionRequest) -> Reasoning:
    asked = body.reasoning or ReasoningOptions()
    budget = asked.max_tokens if body.thinking_token_budget is None else body.thinking_token_budget
    return Reasoning(asked.enabled, body.reasoning_effort or asked.effort, budget)


def _template_arguments(arguments: dict[str, Any] | None) -> dict[str, object]:
    """Arguments for the chat template; they must survive the way to the worker."""
    try:
        msgspec.msgpack.encode(arguments)
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise InvalidRequest(f"chat_template_kwargs cannot be used: {error}", param="chat_template_kwargs") from None
    return arguments or {}
