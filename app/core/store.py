"""What is kept for clients between their requests, through restarts: responses, conversations and the like."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from loguru import logger

from app.core.store_archive import Archive
from app.core.store_file import IN_MEMORY, StoreError, StoreInUse, open_file
from app.core.store_objects import History, Listing, Page, StoredObject
from app.core.store_tables import Bounds, Tables
from app.settings import Settings

__all__ = ["Store", "StoreError", "open_store"]

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST_SWEEP_INTERVAL_S = 60.0


class Store:
    """JSON objects in SQLite. Each call runs as a whole in a thread of the store's own, in the order of the calls.

    What was put in has been committed when `put` returns. Errors of every method: StoreError.
    """

    def __init__(self, tables: Tables, ttl_s: float) -> None:
        self._tables = tables
        self._sweep_interval_s = min(_LONGEST_SWEEP_INTERVAL_S, ttl_s)
        self._thread = ThreadPoolExecutor(1, "store")
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to drop what expires; returns at once."""
        self._sweeper = asyncio.create_task(self._keep_swept(), name="sweep the store")

    async def close(self) -> None:
        """Close the file when everything asked for before is done."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._run(self._tables.close)
        self._thread.shutdown(wait=False)

    async def put(self, objects: Iterable[StoredObject]) -> None:
        """See `Tables.put`."""
        await self._run(self._tables.put, objects)

    async def get(self, kind: str, object_id: str, owner: str = "") -> StoredObject | None:
        """See `Tables.get`."""
        return await self._run(self._tables.get, kind, object_id, owner)

    async def list_page(self, page: Page) -> Listing:
        """See `Tables.list_page`."""
        return await self._run(self._tables.list_page, page)

    async def delete(self, kind: str, object_id: str, owner: str = "") -> bool:
        """See `Tables.delete`."""
        return await self._run(self._tables.delete, kind, object_id, owner)

    async def history(self, kind: str, object_id: str) -> History:
        """See `Tables.history`."""
        return await self._run(self._tables.history, kind, object_id)

    async def find_parts(self, ids: Iterable[str]) -> dict[str, StoredObject]:
        """See `Tables.find_parts`."""
        return await self._run(self._tables.find_parts, ids)

    async def _keep_swept(self) -> None:
        while True:
            try:
                while await self._run(self._tables.sweep):
                    pass
            except StoreError as error:
                logger.error("{}", error)
            await asyncio.sleep(self._sweep_interval_s)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def run() -> T:
            try:
                return work(*args, **kwargs)
            except sqlite3.Error as error:
                raise StoreError(f"the store failed: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def open_store(settings: Settings) -> Store:
    """The store that the settings ask for. Errors: StoreError.

    Where nobody chose the file and another server has it, this one's objects are kept in memory.
    """
    archive = Archive(settings.conversation_logs_dir) if settings.conversation_logs_dir is not None else None
    try:
        connection = open_file(IN_MEMORY if settings.store_in_memory else settings.store_path)
    except StoreInUse as error:
        if "store_path" in settings.model_fields_set:
            raise
        logger.warning("{}; until then its stored responses are kept in memory", error)
        connection = open_file(IN_MEMORY)
    bounds = Bounds(settings.store_ttl, settings.store_max_bytes)
    return Store(Tables(connection, bounds, archive), settings.store_ttl)
