"""POST /v1/chat/completions: OpenAI's chat API, to and from the neutral request and events."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.chat_encoding import ChatReply, ChatStream
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.api.output_format import to_output_format
from app.api.replies import Call, StreamReply, UnaryReply
from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Conversation, Message, Role
from app.core.requests import GenerationRequest, Sampling
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.chat import (
    MAX_BREAKER_CHARACTERS,
    MAX_BREAKERS,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatMessage,
)

router = APIRouter(tags=["chat"])

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
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
    call = Call(context.registry, body.model, to_generation(body), context.record)
    shown_model = body.model or context.registry.find(None).spec.name
    includes_usage = bool(body.stream_options and body.stream_options.include_usage)
    reply = ChatReply(shown_model, num_choices=body.n or 1, includes_usage=includes_usage)
    if body.stream:
        return StreamReply(call, ChatStream(reply, context.record.request_id), context.heartbeat_s)
    return UnaryReply(call, reply.completion)


def to_generation(body: ChatCompletionRequest) -> GenerationRequest:
    """Translate a body. Errors: InvalidRequest."""
    return GenerationRequest(
        prompt=Conversation(
            messages=[_message(message, f"messages[{index}]") for index, message in enumerate(body.messages)],
            template_arguments=_template_arguments(body.chat_template_kwargs),
        ),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=_logit_bias(body.logit_bias),
            seed=body.seed,
            typical_p=body.typical_p,
            xtc_probability=body.xtc_probability,
            xtc_threshold=body.xtc_threshold,
            dry_multiplier=body.dry_multiplier,
            dry_base=body.dry_base,
            dry_allowed_length=body.dry_allowed_length,
            dry_sequence_breakers=_dry_breakers(body.dry_sequence_breakers),
            dry_penalty_last_n=body.dry_penalty_last_n,
        ),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stops(body.stop),
        output_format=to_output_format(body),
        num_choices=body.n or 1,
        top_logprobs=_top_logprobs(body),
        cache_namespace=body.prompt_cache_key or "",
        repetition_guard=body.repetition_guard,
    )


def _top_logprobs(body: ChatCompletionRequest) -> int | None:
    """How many candidates beside each token; None when log-probabilities are not asked for at all."""
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    return None


def _message(message: ChatMessage, path: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"Messages of role '{message.role}' are not supported yet.", param=f"{path}.role")
    match message.content:
        case str(text):
            content = without_volatile_headers(text) if role == "system" else text
        case None:
            raise InvalidRequest(f"'{path}.content' is missing.", param=f"{path}.content")
        case parts:
            content = ""
            for index, part in enumerate(parts):
                if part.type != "text":
                    raise UnsupportedField(
                        f"{path}.content[{index}]", f"parts of type '{part.type}' need another model"
                    )
                if part.text is None:
                    raise InvalidRequest("A text part needs 'text'.", param=f"{path}.content[{index}].text")
                content += without_volatile_headers(part.text) if role == "system" else part.text
    return Message(role, content, message.name)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in stops:
        raise InvalidRequest("A stop string must not be empty.", param="stop")
    return stops


def _dry_breakers(breakers: str | list[str] | None) -> tuple[str, ...] | None:
    """A list as llama.cpp takes it, or its JSON, with or without brackets, as text-generation-webui does."""
    if isinstance(breakers, str):
        text = breakers.strip()
        try:
            # A line break by itself is meant as a breaker, and is no JSON.
            if breakers and not text:
                raise ValueError
            breakers = msgspec.json.decode(text if text.startswith("[") else f"[{text}]", type=list[str])
        except (msgspec.DecodeError, ValueError):
            raise InvalidRequest(
                "dry_sequence_breakers must be a list of strings.", param="dry_sequence_breakers"
            ) from None
    if breakers is None:
        return None
    if "" in breakers or len(breakers) > MAX_BREAKERS or max(map(len, breakers), default=0) > MAX_BREAKER_CHARACTERS:
        raise InvalidRequest(
            f"dry_sequence_breakers takes up to {MAX_BREAKERS} strings of 1 to {MAX_BREAKER_CHARACTERS} characters.",
            param="dry_sequence_breakers",
        )
    return tuple(breakers)


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    try:
        by_token = {int(token): value for token, value in bias.items()}
    except ValueError:
        raise InvalidRequest("The keys of logit_bias must be token ids.", param="logit_bias") from None
    # No vocabulary is as large as what a frame's integers hold; what is smaller is for the model to judge.
    if unknown := [token for token in by_token if not 0 <= token < 2**31]:
        raise InvalidRequest(f"logit_bias names token {unknown[0]}, which no model has.", param="logit_bias")
    return by_token


def _template_arguments(arguments: dict[str, Any] | None) -> dict[str, object]:
    """Arguments for the chat template; they must survive the way to the worker."""
    try:
        msgspec.msgpack.encode(arguments)
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise InvalidRequest(f"chat_template_kwargs cannot be used: {error}", param="chat_template_kwargs") from None
    return arguments or {}
