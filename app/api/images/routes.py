"""POST /v1/images/generations and /v1/images/edits: OpenAI's images API, to and from the neutral request and events."""

import secrets
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from app.api.bodies import body_docs, read_body
from app.api.context import context_of
from app.api.forms import form_docs, read_form
from app.api.images.encoding import ImageReply, ImageStream
from app.api.openai_errors import ERROR_DOCS
from app.api.replies import Call, StreamReply, UnaryReply
from app.core.image_shelf import ImageShelf
from app.core.requests import ImageEffort, ImageFormat, ImageRequest
from app.errors import InvalidRequest, NotFound
from app.schemas.images import ImageEditFields, ImageFields, ImageGenerationRequest, ImagesReply, Quality

router = APIRouter(tags=["images"])
DOCUMENTED = (ImageGenerationRequest,)
_DOCS: dict[int | str, dict[str, Any]] = ERROR_DOCS | {200: {"model": ImagesReply}}
_FILES = ("image", "mask")
# OpenAI's limit.
_MAX_SOURCES = 16
_EFFORTS: dict[Quality | None, ImageEffort] = {"low": "low", "high": "high", "hd": "high"}


@router.post("/v1/images/generations", responses=_DOCS, openapi_extra=body_docs(ImageGenerationRequest))
@router.post("/images/generations", include_in_schema=False)
async def create_image(request: Request) -> Response:
    """Make images of a text."""
    body = await read_body(request, ImageGenerationRequest)
    return _reply(request, body, to_image_request(body), "image_generation")


@router.post("/v1/images/edits", responses=_DOCS, openapi_extra=form_docs(ImageEditFields, _FILES))
@router.post("/images/edits", include_in_schema=False)
async def edit_images(request: Request) -> Response:
    """Change images as a text says."""
    form = await read_form(request, ImageEditFields, _FILES)
    sources, masks = form.files["image"], form.files["mask"]
    if not 1 <= len(sources) <= _MAX_SOURCES:
        raise InvalidRequest(f"'image' must be sent as 1 to {_MAX_SOURCES} files.", param="image")
    if len(masks) > 1:
        raise InvalidRequest("'mask' was sent more than once.", param="mask")
    asked = to_image_request(form.fields, tuple(sources), masks[0] if masks else None)
    return _reply(request, form.fields, asked, "image_edit")


@router.post("/v1/images/variations", responses=ERROR_DOCS)
@router.post("/images/variations", include_in_schema=False)
async def create_variation() -> Response:
    """No model that is served makes variations without a prompt."""
    raise InvalidRequest(
        "Variations are not made here; use /v1/images/edits with a prompt.", code="unsupported_endpoint"
    )


@router.get(
    "/v1/images/files/{name}",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}, "description": "The image."}, 404: ERROR_DOCS[404]},
)
async def get_image_file(request: Request, name: str) -> Response:
    """An image whose URL was sent; it works for an hour, and without a key, as a browser has none to send."""
    shelf: ImageShelf = request.app.state.image_shelf
    stem, _, suffix = name.rpartition(".")
    kept = shelf.get(stem)
    if kept is None or suffix != kept.format:
        raise NotFound("There is no such image; its URL works for an hour after it was made.")
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(kept.data, headers=headers, media_type=f"image/{kept.format}")


def to_image_request(body: ImageFields, sources: tuple[bytes, ...] = (), mask: bytes | None = None) -> ImageRequest:
    """Translate a body. Errors: InvalidRequest where its fields contradict each other."""
    _check(body)
    return ImageRequest(
        prompt=body.prompt,
        seed=secrets.randbits(32) if body.seed is None else body.seed,
        num_images=body.n or 1,
        size=body.dimensions,
        num_steps=body.steps,
        effort=_EFFORTS.get(body.quality, "medium"),
        guidance=body.guidance,
        negative_prompt=body.negative_prompt,
        sources=sources,
        mask=mask,
        file_format=_file_format(body),
        compression=body.output_compression,
        num_previews=body.partial_images or 0,
    )


def _check(body: ImageFields) -> None:
    if body.output_compression is not None and _file_format(body) == "png":
        raise InvalidRequest("'output_compression' is for JPEG and WebP files.", param="output_compression")
    if body.partial_images and not body.stream:
        raise InvalidRequest("'partial_images' come in a stream; send 'stream': true too.", param="partial_images")
    if body.stream and body.response_format == "url":
        raise InvalidRequest(
            "A stream carries the images itself; leave out 'response_format'.", param="response_format"
        )


def _reply(
    request: Request, body: ImageFields, asked: ImageRequest, prefix: Literal["image_generation", "image_edit"]
) -> Response:
    context = context_of(request)
    call = Call(context.registry, body.model, asked, context.record)
    shelf: ImageShelf = request.app.state.image_shelf

    def shelve(data: bytes) -> str:
        return f"{request.base_url}v1/images/files/{shelf.put(data, asked.file_format)}.{asked.file_format}"

    reply = ImageReply(asked.file_format, asked.effort, shelve if body.response_format == "url" else None)
    if body.stream:
        return StreamReply(call, ImageStream(reply, prefix, context.record.request_id), context.heartbeat_s)
    return UnaryReply(call, reply.whole)


def _file_format(body: ImageFields) -> ImageFormat:
    return "jpeg" if body.output_format == "jpg" else body.output_format or "png"
