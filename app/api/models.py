"""GET /v1/models: what is served; POST /v1/models/load and /unload: which of it is loaded; DELETE: what is on disk."""

from fastapi import APIRouter, Request

from app.api.bodies import body_docs, query_docs, read_body, read_query
from app.api.capabilities import capabilities_of
from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.core.served_model import ServedModel
from app.errors import Forbidden, InvalidRequest
from app.schemas.models import (
    DeletedModel,
    DeleteModelQuery,
    LoadModelRequest,
    ModelList,
    ModelObject,
    UnloadModelRequest,
)
from app.settings import Settings

router = APIRouter(tags=["models"], responses=ERROR_DOCS)
DOCUMENTED = (LoadModelRequest, UnloadModelRequest)


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """List the served models, loaded or not, after a look at the disk for those that nobody has configured."""
    registry = context_of(request).registry
    await registry.refresh()
    return ModelList(data=[_object(name, model) for name, model in registry.served.items()])


@router.get("/v1/models/{model_id:path}")
@router.get("/models/{model_id:path}", include_in_schema=False)
async def get_model(request: Request, model_id: str) -> ModelObject:
    """One served model; the id may contain slashes."""
    return _object(model_id, await context_of(request).registry.named(model_id))


@router.delete("/v1/models/{model_id:path}", openapi_extra=query_docs(DeleteModelQuery))
@router.delete("/models/{model_id:path}", include_in_schema=False)
async def delete_model(request: Request, model_id: str) -> DeletedModel:
    """Delete a model of the Hugging Face hub's cache from disk, when the requests that run on it are through.

    409, and it stays, where that takes too long. What the settings name, or --models-dir has, is not deleted.
    """
    asked = read_query(request, DeleteModelQuery)
    registry = context_of(request).registry
    await registry.named(model_id)
    _check_may_delete(request.app.state.settings)
    await registry.delete(model_id, asked.timeout)
    return DeletedModel(id=model_id)


@router.post("/v1/models/load", openapi_extra=body_docs(LoadModelRequest))
@router.post("/models/load", include_in_schema=False)
async def load_model(request: Request) -> ModelObject:
    """Load a model and wait until it is ready: at once where it is, 503 where it cannot be loaded.

    It makes other on-demand models leave, as a request for it would. An adapter comes with its base.
    """
    body = await read_body(request, LoadModelRequest)
    return _object(body.model, await context_of(request).registry.load(body.model))


@router.post("/v1/models/unload", openapi_extra=body_docs(UnloadModelRequest))
@router.post("/models/unload", include_in_schema=False)
async def unload_model(request: Request) -> ModelObject:
    """Unload a model when the requests that run on it are through; 409, and it stays, where that takes too long.

    The next request for it loads it again, and so do those that came meanwhile. An adapter leaves with its base only.
    """
    body = await read_body(request, UnloadModelRequest)
    model = await context_of(request).registry.named(body.model, param="model")
    if body.model in model.spec.adapters:
        raise InvalidRequest(
            f"'{body.model}' is an adapter of '{model.spec.name}' and in memory together with it; unload that one.",
            param="model",
        )
    await model.unload(body.timeout)
    return _object(body.model, model)


def _check_may_delete(settings: Settings) -> None:
    """Errors: Forbidden. Which key is an admin's, the middleware has looked at."""
    if not settings.allow_model_deletion:
        raise Forbidden(
            "This server deletes no models: start it with --allow-model-deletion.", code="model_deletion_disabled"
        )
    if not settings.access_keys:
        raise Forbidden(
            "Models are deleted for who has a key, and this server has none: set one with --api-key, or admins in"
            " --api-keys-file."
        )
    if settings.named_keys and not any(key.admin for key in settings.access_keys):
        raise Forbidden("Models are deleted for admins: give a key of --api-keys-file the field 'admin: true'.")


def _object(name: str, model: ServedModel) -> ModelObject:
    """A model as it is seen under one of its ids."""
    files = model.life.disk.files
    beside = model.spec.adapters.get(name)
    adapter = beside or model.spec.adapter_path
    return ModelObject(
        id=name,
        created=model.created,
        root=name if beside is None else beside.name,
        parent=None if beside is None else model.spec.name,
        status=model.state,
        reason=model.reason,
        kind=model.kind,
        context_length=model.context_length,
        adapter=None if adapter is None else adapter.name,
        on_demand=model.spec.on_demand,
        size_bytes=files.weights.num_bytes or None if files else None,
        memory_bytes=model.life.resident_bytes,
        capabilities=capabilities_of(model),
    )
