"""GET /anthropic/v1/models: what is served, as Anthropic's API shows it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter, Request

from app.api.bodies import query_docs, read_query
from app.api.context import context_of
from app.api.messages.errors import ERROR_DOCS
from app.core.served_model import ServedModel
from app.errors import InvalidRequest
from app.schemas.messages import ModelsQuery
from app.schemas.messages_replies import AnthropicModel, AnthropicModelPage

router = APIRouter(tags=["models"], responses=ERROR_DOCS)
DOCUMENTED = ()


@router.get("/anthropic/v1/models", openapi_extra=query_docs(ModelsQuery))
async def list_models(request: Request) -> AnthropicModelPage:
    """List the served models, a page at a time."""
    asked = read_query(request, ModelsQuery)
    registry = context_of(request).registry
    await registry.refresh()
    models = registry.served
    names = list(models)
    if asked.before_id is not None:
        before = names[: _place(names, asked.before_id, "before_id")]
        shown, has_more = before[-asked.limit :], len(before) > asked.limit
    else:
        after = names if asked.after_id is None else names[_place(names, asked.after_id, "after_id") + 1 :]
        shown, has_more = after[: asked.limit], len(after) > asked.limit
    return AnthropicModelPage(
        data=[_model(name, models[name]) for name in shown],
        has_more=has_more,
        first_id=shown[0] if shown else None,
        last_id=shown[-1] if shown else None,
    )


@router.get("/anthropic/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> AnthropicModel:
    """One served model; the id may contain slashes."""
    return _model(model_id, await context_of(request).registry.named(model_id))


def _place(names: Sequence[str], name: str, param: str) -> int:
    if name not in names:
        raise InvalidRequest(f"'{param}' names '{name}', which is not served here.", param=param)
    return names.index(name)


def _model(name: str, model: ServedModel) -> AnthropicModel:
    return AnthropicModel(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=model.context_length,
        max_tokens=model.context_length,
    )
