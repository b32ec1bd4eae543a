"""The prefix cache of a language model from its opening to its end: what is done to it besides lookups."""

import time
from pathlib import Path

from app.core.frames import CacheStats
from app.handler import device
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.prefixes.prefix_files import PrefixFiles
from app.handler.lm.prefixes.prefix_folder import fingerprint, folder_of, remove_outdated
from app.settings import ModelSpec

# Shorter than what the server waits for the process to end.
_CLOSING_S = 8.0
_WRITING_PAUSE_S = 0.05
_SHORTEST_EXPIRY_PAUSE_S = 0.05


def open_prefix_cache(spec: ModelSpec, folder: Path, form: CacheForm, max_bytes: int) -> PrefixCache:
    """The prefix cache that the settings ask for, of the model in `folder`."""
    limits = PrefixCacheLimits(max_bytes, spec.prompt_cache_size, spec.prompt_cache_ttl or None)
    files = None
    if spec.prompt_cache_dir is not None and not limits.allow_nothing:
        version = fingerprint(folder, form, spec.adapter_path)
        own_folder = folder_of(spec.prompt_cache_dir, spec.model_path, version, spec.adapter_path)
        files = PrefixFiles.open(own_folder, version, spec.prompt_cache_dir_bytes)
        if files is not None:
            remove_outdated(own_folder)
    return PrefixCache(form.new(), limits, files)


class CacheUpkeep:
    """Owned by the worker's main thread."""

    def __init__(self, prefixes: PrefixCache) -> None:
        self._prefixes = prefixes
        self._freed_memory = device.FreedMemory()
        self._expires_at = 0.0

    def work(self) -> None:
        """Between two turns."""
        self._prefixes.spill_ahead()
        ttl_s = self._prefixes.limits.ttl_s
        if ttl_s is not None and time.monotonic() >= self._expires_at:
            self._prefixes.expire()
            self._expires_at = time.monotonic() + max(ttl_s / 4, _SHORTEST_EXPIRY_PAUSE_S)

    def rest(self, idle_s: float) -> float | None:
        """See `Handler.rest`."""
        self.work()
        if self._prefixes.read_ahead():
            self._freed_memory.give_back(0.0)
            return 0.0
        is_writing = self._prefixes.collect()
        # What is being written is not free yet.
        pauses = [self._freed_memory.give_back(0.0 if is_writing else idle_s)]
        if is_writing:
            pauses.append(_WRITING_PAUSE_S)
        if self._prefixes.limits.ttl_s is not None:
            pauses.append(max(0.0, self._expires_at - time.monotonic()))
        return min((pause for pause in pauses if pause is not None), default=None)

    def inspect(self) -> CacheStats:
        """See `Handler.inspect`."""
        prefixes, counts, files = self._prefixes, self._prefixes.counts, self._prefixes.files
        return CacheStats(
            lookups=counts.lookups,
            hits=counts.hits,
            looked_up_tokens=counts.looked_up_tokens,
            hit_tokens=counts.hit_tokens,
            evictions=counts.evictions,
            expired=counts.expired,
            num_sequences=prefixes.num_sequences,
            num_bytes=prefixes.num_bytes,
            max_bytes=prefixes.limits.max_bytes,
            disk_files=files.num_files if files is not None else 0,
            disk_bytes=files.num_bytes if files is not None else 0,
            disk_max_bytes=files.max_bytes if files is not None else 0,
            disk_spills=files.num_spills if files is not None else 0,
            disk_loads=files.num_loads if files is not None else 0,
        )

    def clear(self) -> None:
        """Drop everything that is kept, on disk too."""
        self._prefixes.clear()

    def close(self) -> None:
        """Write what is only in memory to disk."""
        self._prefixes.close(_CLOSING_S)
