"""GET /v1/models: what is served; POST /v1/models/load and /unload: which of it is loaded."""

from fastapi import APIRouter, Request

from app.api.bodies import body_docs, read_body
from app.api.capabilities import capabilities_of
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.core.served_model import ServedModel
from app.schemas.models import LoadModelRequest, ModelList, ModelObject, UnloadModelRequest

router = APIRouter(tags=["models"], responses=ERROR_DOCS)
DOCUMENTED = (LoadModelRequest, UnloadModelRequest)


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """List the served models, loaded or not."""
    models = context_of(request).registry.models
    return ModelList(data=[_object(model) for model in models.values()])


@router.get("/v1/models/{model_id:path}")
@router.get("/models/{model_id:path}", include_in_schema=False)
async def get_model(request: Request, model_id: str) -> ModelObject:
    """One served model; the id may contain slashes."""
    return _object(context_of(request).registry.named(model_id))


@router.post("/v1/models/load", openapi_extra=body_docs(LoadModelRequest))
@router.post("/models/load", include_in_schema=False)
async def load_model(request: Request) -> ModelObject:
    """Load a model and wait until it is ready: at once where it is, 503 where it cannot be loaded.

    It makes other on-demand models leave, as a request for it would.
    """
    body = await read_body(request, LoadModelRequest)
    return _object(await context_of(request).registry.load(body.model))


@router.post("/v1/models/unload", openapi_extra=body_docs(UnloadModelRequest))
@router.post("/models/unload", include_in_schema=False)
async def unload_model(request: Request) -> ModelObject:
    """Unload a model when the requests that run on it are through; 409, and it stays, where that takes too long.

    The next request for it loads it again, and so do those that came meanwhile.
    """
    body = await read_body(request, UnloadModelRequest)
    model = context_of(request).registry.named(body.model, param="model")
    await model.unload(body.timeout)
    return _object(model)


def _object(model: ServedModel) -> ModelObject:
    files = model.life.disk.files
    return ModelObject(
        id=model.spec.name,
        created=model.created,
        status=model.state,
        reason=model.reason,
        kind=model.kind,
        context_length=model.context_length,
        adapter=model.spec.adapter_path.name if model.spec.adapter_path else None,
        on_demand=model.spec.on_demand,
        size_bytes=files.weights.num_bytes or None if files else None,
        memory_bytes=model.life.resident_bytes,
        capabilities=capabilities_of(model),
    )
