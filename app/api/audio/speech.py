"""POST /v1/audio/speech and GET /v1/audio/voices: OpenAI's speech API, to and from the neutral request and events."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.audio.speech_encoding import SpeechStreamEncoder, to_timed_speech, to_voices
from app.api.audio.speech_stream import CONTENT_TYPES, AudioReply
from app.api.bodies import body_docs, query_docs, read_body, read_query
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, StreamReply, UnaryReply
from app.core.requests import SpeechRequest, VoicesRequest
from app.errors import InvalidRequest
from app.schemas.speech import SpeechBody, TimedSpeech, VoiceId, VoicesQuery, VoicesReply

router = APIRouter(tags=["audio"])
DOCUMENTED = (SpeechBody,)

_SPEECH_DOCS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Audio as it is made, or events, or with `include_visemes` an object",
        "model": TimedSpeech,
        "content": {kind: {} for kind in (*CONTENT_TYPES.values(), "text/event-stream")},
    }
}


@router.post(
    "/v1/audio/speech",
    responses=ERROR_DOCS | _SPEECH_DOCS,
    openapi_extra=body_docs(SpeechBody),
    response_class=Response,
)
@router.post("/audio/speech", include_in_schema=False)
async def create_speech(request: Request) -> Response:
    """Say a text aloud."""
    context = context_of(request)
    body = await read_body(request, SpeechBody)
    asked = _to_speech(body)
    call = Call(context.registry, body.model, asked, context.record)
    if asked.has_timings:
        return UnaryReply(call, partial(to_timed_speech, audio_format=asked.audio_format))
    if body.stream_format == "sse":
        return StreamReply(call, SpeechStreamEncoder(context.record.request_id), context.heartbeat_s)
    return AudioReply(call, asked.audio_format)


@router.get(
    "/v1/audio/voices", responses=ERROR_DOCS | {200: {"model": VoicesReply}}, openapi_extra=query_docs(VoicesQuery)
)
@router.get("/audio/voices", include_in_schema=False)
async def list_voices(request: Request) -> Response:
    """List the voices of a model."""
    context = context_of(request)
    query = read_query(request, VoicesQuery)
    shown_model = query.model or context.registry.find(None).spec.name
    call = Call(context.registry, query.model, VoicesRequest(), context.record)
    return UnaryReply(call, partial(to_voices, model=shown_model))


def _to_speech(body: SpeechBody) -> SpeechRequest:
    """Errors: InvalidRequest for fields that exclude each other."""
    if body.include_visemes and body.stream_format == "sse":
        raise InvalidRequest("'include_visemes' is not streamed; leave 'stream_format' out.", param="stream_format")
    return SpeechRequest(
        text=body.input,
        voice=body.voice.id if isinstance(body.voice, VoiceId) else body.voice,
        audio_format=body.response_format or "mp3",
        speed=1.0 if body.speed is None else body.speed,
        language=body.language,
        is_streamed=not body.include_visemes,
        has_timings=bool(body.include_visemes),
        seed=body.seed or 0,
    )
