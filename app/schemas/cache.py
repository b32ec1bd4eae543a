"""GET /v1/cache/stats and DELETE /v1/cache on the wire."""

from typing import Literal

from pydantic import BaseModel


class CacheStats(BaseModel):
    """Prefix caches: counts since a model was last started, and what is kept now; and the model's memory.

    `hit_tokens` of `looked_up_tokens` were not computed again; a spill is a file written, a load one read.
    `weights_bytes` are those of the loaded model, `kv_bytes` of the requests that run, of `kv_max_bytes` at most;
    `num_media` pictures, films and recordings are kept as what the model made of them: a hit is not looked at again.
    `active_bytes` is all that MLX holds for it, `peak_bytes` the most it has held since it was started.
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
    media_lookups: int
    media_hits: int
    num_media: int
    media_bytes: int
    media_max_bytes: int
    weights_bytes: int
    kv_bytes: int
    kv_max_bytes: int
    active_bytes: int
    peak_bytes: int


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
    num_media: int
    media_bytes: int


class ClearedCachesReply(BaseModel):
    """All models together, and each."""

    status: Literal["ok"]
    freed: FreedCache
    models: dict[str, FreedCache]
