"""POST /v1/completions: OpenAI's text completion API, to and from the neutral request and events."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.completions.encoding import CompletionReply, CompletionStream
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.api.output_format import to_output_format
from app.api.replies import StreamReply, UnaryReply
from app.api.sampling_fields import to_sampling, to_stops
from app.core.conversation import RawPrompt
from app.core.event_stream import EventStream
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import GenerationRequest
from app.core.together import run_together
from app.errors import InvalidRequest
from app.schemas.completions import DEFAULT_MAX_TOKENS, Completion, CompletionChunk, CompletionRequest

router = APIRouter(tags=["completions"])

_REPLY_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {
    200: {
        "model": Completion,
        "description": "The texts, or with `stream` their chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/CompletionChunk"}}},
    }
}
DOCUMENTED = (CompletionRequest, CompletionChunk)


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A request for each prompt, on their way to a model together."""

    registry: Registry
    model: str | None
    requests: tuple[GenerationRequest, ...]
    record: RequestRecord

    def run(self) -> AbstractAsyncContextManager[EventStream]:
        """See `Work.run`."""
        if len(self.requests) == 1:
            return self.registry.run(self.model, self.requests[0], self.record)
        return run_together(self.registry, self.model, self.requests, self.record)


@router.post("/v1/completions", responses=_REPLY_DOCS, openapi_extra=body_docs(CompletionRequest))
@router.post("/completions", include_in_schema=False)
async def create_completion(request: Request) -> Response:
    """Continue one text or several."""
    context = context_of(request)
    body = await read_body(request, CompletionRequest)
    context.record.timeout_s = body.timeout
    requests = to_generations(body)
    call = CompletionCall(context.registry, body.model, requests, context.record)
    reply = CompletionReply(
        body.model or context.registry.find(None).spec.name,
        num_choices=body.n or 1,
        best_of=requests[0].num_choices,
        has_logprobs=body.logprobs is not None,
        includes_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    if body.stream:
        num_choices = len(requests) * requests[0].num_choices
        return StreamReply(call, CompletionStream(reply, num_choices, context.record.request_id), context.heartbeat_s)
    return UnaryReply(call, reply.completion)


def to_generations(body: CompletionRequest) -> tuple[GenerationRequest, ...]:
    """Translate a body: a request for each prompt. Errors: InvalidRequest."""
    best_of = _best_of(body)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("'max_tokens' may only be 0 with 'echo': true.", param="max_tokens")
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    # The best are found by their log-probabilities.
    top_logprobs = 0 if body.logprobs is None and best_of != (body.n or 1) else body.logprobs
    sampling, stop, output_format = to_sampling(body), to_stops(body.stop), to_output_format(body)
    return tuple(
        GenerationRequest(
            prompt=prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            output_format=output_format,
            num_choices=best_of,
            top_logprobs=top_logprobs,
            cache_namespace=body.prompt_cache_key or "",
            repetition_guard=body.repetition_guard,
        )
        for prompt in _prompts(body)
    )


def _best_of(body: CompletionRequest) -> int:
    """How many choices are generated for each prompt."""
    num_choices = body.n or 1
    best_of = body.best_of or num_choices
    if best_of < num_choices:
        raise InvalidRequest(f"'best_of' must not be less than 'n', which is {num_choices}.", param="best_of")
    if body.stream and best_of > num_choices:
        raise InvalidRequest(
            "The best are only known at the end: 'best_of' greater than 'n' cannot be streamed.", param="best_of"
        )
    return best_of


def _prompts(body: CompletionRequest) -> list[RawPrompt]:
    adds_special_tokens = body.add_special_tokens is not False
    # Without a text after it, a gap is an end.
    suffix = body.suffix or None
    if suffix is not None and body.echo:
        raise InvalidRequest("'suffix' cannot be used with 'echo'.", param="suffix")
    prompts: list[RawPrompt] = []
    for text in _texts(body.prompt):
        if suffix is not None and not isinstance(text, str):
            raise InvalidRequest("'suffix' needs a prompt that is a text.", param="suffix")
        prompts.append(RawPrompt(text, suffix, adds_special_tokens, bool(body.echo)))
    return prompts


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts, from one text, several, one token array or several."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [one for one in given if not isinstance(one, int)]
