"""GET /v1/cache/stats and DELETE /v1/cache: how much the caches save, and a way to empty them."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from app.api.context import context_of
from app.api.openai_errors import ERROR_DOCS
from app.core.registry import Registry
from app.core.served_model import ServedModel
from app.errors import ModelNotFound
from app.schemas.cache import CacheStats, CacheStatsReply, ClearedCachesReply, FreedCache

router = APIRouter(tags=["operations"], responses=ERROR_DOCS)
DOCUMENTED = ()

ModelT = TypeVar("ModelT", bound=BaseModel)
ModelName = Annotated[str | None, Query(description="Only this model; every one without.")]


@router.get("/v1/cache/stats")
@router.get("/cache/stats", include_in_schema=False)
async def get_cache_stats(request: Request, model: ModelName = None) -> CacheStatsReply:
    """Lookups, hits, and what is kept in memory and on disk; zeros for a model that is not running."""
    models = await _inspect(context_of(request).registry, model, CacheStats, clears=False)
    return CacheStatsReply(status="ok", cache_stats=_total(CacheStats, models.values()), models=models)


@router.delete("/v1/cache")
@router.delete("/cache", include_in_schema=False)
async def clear_caches(request: Request, model: ModelName = None) -> ClearedCachesReply:
    """Drop what the caches keep, of prompts and of media, in memory and on disk; says how much that was.

    409 names a model that may keep something on disk and is not ready, when all others are through.
    """
    models = await _inspect(context_of(request).registry, model, FreedCache, clears=True)
    return ClearedCachesReply(status="ok", freed=_total(FreedCache, models.values()), models=models)


async def _inspect(registry: Registry, name: str | None, schema: type[ModelT], *, clears: bool) -> dict[str, ModelT]:
    chosen = _chosen(registry, name)
    inspections = (model.inspect(clears=clears) for model in chosen.values())
    found: dict[str, ModelT] = {}
    # Whichever fails, all are through.
    for key, stats in zip(chosen, await asyncio.gather(*inspections, return_exceptions=True), strict=True):
        if isinstance(stats, BaseException):
            raise stats
        values = msgspec.structs.asdict(stats)
        found[key] = schema(**{field: values[field] for field in schema.model_fields if field in values})
    return found


def _chosen(registry: Registry, name: str | None) -> dict[str, ServedModel]:
    if name is None:
        return registry.models
    if (model := registry.served.get(name)) is None:
        raise ModelNotFound(f"The model '{name}' is not served here; GET /v1/models lists those that are.")
    return {model.spec.name: model}


def _total(schema: type[ModelT], parts: Iterable[ModelT]) -> ModelT:
    """The sums of each field."""
    every = list(parts)
    return schema(**{field: sum(getattr(one, field) for one in every) for field in schema.model_fields})
