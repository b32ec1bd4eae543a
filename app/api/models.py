"""GET /v1/models: what is served."""

from fastapi import APIRouter, Request

from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.core.served_model import ServedModel
from app.errors import ModelNotFound
from app.schemas.models import ModelList, ModelObject

router = APIRouter(tags=["models"], responses=ERROR_DOCS)
DOCUMENTED = ()


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """List the served models."""
    models = context_of(request).registry.models
    return ModelList(data=[_object(model) for model in models.values()])


@router.get("/v1/models/{model_id:path}")
@router.get("/models/{model_id:path}", include_in_schema=False)
async def get_model(request: Request, model_id: str) -> ModelObject:
    """One served model; the id may contain slashes."""
    models = context_of(request).registry.models
    if model_id not in models:
        raise ModelNotFound(f"The model '{model_id}' is not served here; GET /v1/models lists those that are.")
    return _object(models[model_id])


def _object(model: ServedModel) -> ModelObject:
    info = model.info
    return ModelObject(
        id=model.spec.name,
        created=model.created,
        status=model.state,
        kind=None if info is None else info.kind,
        context_length=None if info is None else info.context_length,
    )
