"""POST /v1/audio/transcriptions and /v1/audio/translations: OpenAI's API for recordings of speech."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.audio.transcript_formats import TranscriptReply, TranscriptStream
from app.api.context import context_of
from app.api.forms import form_docs, read_form
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, StreamReply, UnaryReply
from app.core.requests import TranscriptionRequest
from app.errors import InvalidRequest
from app.schemas.transcriptions import (
    RecordingFields,
    Transcript,
    TranscriptionFields,
    TranslationFields,
    VerboseTranscript,
)

router = APIRouter(tags=["audio"])
DOCUMENTED = ()
_FILES = ("file",)
_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {
    200: {
        "model": VerboseTranscript | Transcript,
        "description": "The transcript in the format asked for, or with `stream` events.",
        "content": {"text/plain": {}, "text/event-stream": {}},
    }
}


@router.post("/v1/audio/transcriptions", responses=_DOCS, openapi_extra=form_docs(TranscriptionFields, _FILES))
@router.post("/audio/transcriptions", include_in_schema=False)
async def create_transcription(request: Request) -> Response:
    """Write down what is said in a recording."""
    form = await read_form(request, TranscriptionFields, _FILES)
    granularities = form.fields.timestamp_granularities
    if granularities is not None and form.fields.response_format != "verbose_json":
        raise InvalidRequest(
            "'timestamp_granularities' are for the response_format verbose_json.", param="timestamp_granularities"
        )
    wanted = granularities or ["segment"]
    reply = TranscriptReply(
        form.fields.response_format or "json",
        has_segments="segment" in wanted,
        has_words="word" in wanted,
    )
    return _reply(request, form.fields, reply, form.files["file"])


@router.post("/v1/audio/translations", responses=_DOCS, openapi_extra=form_docs(TranslationFields, _FILES))
@router.post("/audio/translations", include_in_schema=False)
async def create_translation(request: Request) -> Response:
    """Write down in English what is said in a recording."""
    form = await read_form(request, TranslationFields, _FILES)
    reply = TranscriptReply(form.fields.response_format or "json", is_translation=True)
    return _reply(request, form.fields, reply, form.files["file"])


def _reply(request: Request, fields: RecordingFields, reply: TranscriptReply, files: list[bytes]) -> Response:
    context = context_of(request)
    call = Call(context.registry, fields.model, _to_request(fields, reply, files), context.record)
    if not fields.stream:
        return UnaryReply(call, reply.whole, reply.media_type)
    if reply.format in ("srt", "vtt"):
        raise InvalidRequest(f"{reply.format} is not streamed; leave 'stream' out.", param="stream")
    return StreamReply(call, TranscriptStream(reply, context.record.request_id), context.heartbeat_s)


def _to_request(fields: RecordingFields, reply: TranscriptReply, files: list[bytes]) -> TranscriptionRequest:
    """Errors: InvalidRequest when there is not exactly one file."""
    if not files:
        raise InvalidRequest("'file' is missing; send a recording.", param="file", code="missing_required_parameter")
    if len(files) > 1:
        raise InvalidRequest("'file' was sent more than once.", param="file")
    return TranscriptionRequest(
        audio=files[0],
        into_english=reply.is_translation,
        language=fields.language or None,
        prompt=fields.prompt or None,
        # OpenAI's 0 is what is tried first.
        temperature=fields.temperature or None,
        best_of=fields.best_of,
        has_words=reply.has_words,
        condition_on_previous_text=fields.condition_on_previous_text,
        compression_ratio_threshold=fields.compression_ratio_threshold,
        logprob_threshold=fields.logprob_threshold,
        no_speech_threshold=fields.no_speech_threshold,
        clip=fields.clip_timestamps,
    )
