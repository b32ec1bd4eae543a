"""GET /v1/cache/stats and DELETE /v1/cache on the wire."""

from typing import Literal

from pydantic import BaseModel


class CacheStats(BaseModel):
    """Prefix caches: counts since a model was last started, and what is kept now.

    `hit_tokens` of `looked_up_tokens` were not computed again; a spill is a file written, a load one read.
    """

    lookups: int
    hits: int
    looked_up_tokens: int
    hit_tokens: int
    evictions: int
    expired: int
    num_sequences: int
    num_bytes: int
    max_bytes: int
    disk_files: int
    disk_bytes: int
    disk_max_bytes: int
    disk_spills: int
    disk_loads: int


class CacheStatsReply(BaseModel):
    """All models together, and each."""

    status: Literal["ok"]
    cache_stats: CacheStats
    models: dict[str, CacheStats]


class FreedCache(BaseModel):
    """What was dropped."""

    num_sequences: int
    num_bytes: int
    disk_files: int
    disk_bytes: int


class ClearedCachesReply(BaseModel):
    """All models together, and each."""

    status: Literal["ok"]
    freed: FreedCache
    models: dict[str, FreedCache]
