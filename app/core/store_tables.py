"""What the store keeps, in SQL. Synchronous."""

import json
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.core.store_archive import Archive
from app.core.store_objects import History, Listing, Page, StoredObject
from app.errors import InvalidRequest

# What a row takes beside its texts, about.
_ROW_BYTES = 200
_SWEPT_AT_ONCE = 100
_VACUUMED_PAGES = 2000
# What is continued by something is a part of its history: it stays until that has gone.
_MAY_LEAVE = (
    "owner = '' AND NOT EXISTS (SELECT 1 FROM objects AS later WHERE later.follows = objects.id"
    " AND later.kind = objects.kind AND later.owner = '')"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long an object lives after its last use, and how many bytes all of them may take."""

    ttl_s: float
    max_bytes: int


class Tables:
    """The objects: what is used lives on, and what was used longest ago leaves first. Owned by the store's thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        bounds: Bounds,
        archive: Archive | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._bounds = bounds
        self._archive = archive
        self._clock = clock
        self._num_bytes: int = self._execute("SELECT coalesce(sum(size), 0) FROM objects")[0][0]

    def put(self, objects: Iterable[StoredObject]) -> None:
        """Keep objects, all or none; one that is there already keeps its place.

        A part is a use of its owner. A part of what is not there is not kept.
        """
        with self._transaction():
            used: set[str] = set()
            for one in objects:
                self._put(one)
                used.add(one.owner or one.id)
            self._use(used)
            self._evict(used)

    def get(self, kind: str, object_id: str, owner: str = "") -> StoredObject | None:
        """An object, unless it is not there or has expired."""
        found = self._select("kind = ? AND owner = ? AND id = ?", (kind, owner, object_id))
        return found[0] if found and self._is_alive(owner or object_id) else None

    def list_page(self, page: Page) -> Listing:
        """Errors: InvalidRequest when there is no object `page.after`."""
        place = [page.kind, page.owner]
        # Parts have no time of their own.
        where, values = "kind = ? AND owner = ? AND (owner != '' OR expires > ?)", [*place, self._clock()]
        if page.after is not None:
            last = self._execute(
                "SELECT seq FROM objects WHERE kind = ? AND owner = ? AND id = ?", [*place, page.after]
            )
            if not last:
                raise InvalidRequest(f"There is no '{page.after}' in this list.", param="after")
            where += " AND seq > ?" if page.is_ascending else " AND seq < ?"
            values += last[0]
        for pair in page.metadata.items():
            where += " AND EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)"
            values += pair
        order = "ASC" if page.is_ascending else "DESC"
        rows = self._select(f"{where} ORDER BY seq {order} LIMIT ?", [*values, page.limit + 1])
        return Listing(rows[: page.limit], len(rows) > page.limit)

    def delete(self, kind: str, object_id: str, owner: str = "") -> bool:
        """Drop an object with its parts; whether it was there."""
        with self._transaction():
            return self.get(kind, object_id, owner) is not None and self._drop(kind, object_id, owner)

    def history(self, kind: str, object_id: str) -> History:
        """What one that continues an object has to know, also of what has expired since."""
        line = self._line(kind, object_id)
        if not line or not self._is_alive(object_id):
            return History([], object_id)
        if (missing := line[-1][1]) is not None:
            return History([], missing)
        self._use([object_id])
        owners = json.dumps([id_ for id_, _ in line])
        return History(self._select("owner IN (SELECT value FROM json_each(?)) ORDER BY seq", [owners]))

    def find_parts(self, ids: Iterable[str]) -> dict[str, StoredObject]:
        """Parts by their ids, whosever they are; of several with one id the last that was put in."""
        found: dict[str, StoredObject] = {}
        for id_ in ids:
            for one in self._select("id = ? AND owner != '' ORDER BY seq DESC LIMIT 1", [id_]):
                found[id_] = one
        return found

    def sweep(self) -> bool:
        """Drop some of what has expired; whether there may be more."""
        with self._transaction():
            expired = self._select(
                f"expires <= ? AND {_MAY_LEAVE} ORDER BY expires LIMIT ?", (self._clock(), _SWEPT_AT_ONCE)
            )
            for one in expired:
                self._retire(one)
        self._execute(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})")
        return bool(expired)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _put(self, one: StoredObject) -> None:
        if one.owner and not self._execute("SELECT 1 FROM objects WHERE id = ? AND owner = ''", [one.owner]):
            return
        place = (one.kind, one.owner, one.id)
        metadata = json.dumps(dict(one.metadata))
        size = len(one.body) + len(metadata) + _ROW_BYTES
        before = self._execute("SELECT size FROM objects WHERE kind = ? AND owner = ? AND id = ?", place)
        self._execute(
            "INSERT INTO objects (kind, owner, id, follows, created, expires, size, metadata, body)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT (kind, owner, id)"
            " DO UPDATE SET size = excluded.size, metadata = excluded.metadata, body = excluded.body",
            (*place, one.follows, one.created, size, metadata, one.body),
        )
        self._num_bytes += size - sum(row[0] for row in before)

    def _line(self, kind: str, object_id: str) -> list[tuple[str, str | None]]:
        """An object and all that it continues as (id, what it follows): the last follows nothing, or what is gone."""
        return self._execute(
            "WITH RECURSIVE line (id, follows) AS ("
            " SELECT id, follows FROM objects WHERE kind = :kind AND owner = '' AND id = :id"
            " UNION SELECT objects.id, objects.follows FROM line JOIN objects"
            " ON objects.kind = :kind AND objects.owner = '' AND objects.id = line.follows"
            ") SELECT id, follows FROM line",
            {"kind": kind, "id": object_id},
        )

    def _use(self, ids: Iterable[str]) -> None:
        expires = self._clock() + self._bounds.ttl_s
        for id_ in ids:
            self._execute("UPDATE objects SET expires = ? WHERE id = ? AND owner = ''", (expires, id_))

    def _is_alive(self, root_id: str) -> bool:
        alive = "SELECT 1 FROM objects WHERE id = ? AND owner = '' AND expires > ?"
        return bool(self._execute(alive, (root_id, self._clock())))

    def _evict(self, spared: Iterable[str]) -> None:
        but_not = " AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY expires, seq LIMIT 1"
        while self._num_bytes > self._bounds.max_bytes:
            oldest = self._select(_MAY_LEAVE + but_not, [json.dumps([*spared])])
            if not oldest:
                return
            self._retire(oldest[0])

    def _retire(self, root: StoredObject) -> None:
        """An object's time is over."""
        if self._archive is not None:
            self._archive.write(root, self._select("owner = ? ORDER BY seq", [root.id]), self._clock())
        self._drop(root.kind, root.id, "")

    def _drop(self, kind: str, object_id: str, owner: str) -> bool:
        place = (kind, owner, object_id)
        dropped = self._execute("DELETE FROM objects WHERE kind = ? AND owner = ? AND id = ? RETURNING size", place)
        if not owner:
            dropped += self._execute("DELETE FROM objects WHERE owner = ? RETURNING size", [object_id])
        self._num_bytes -= sum(row[0] for row in dropped)
        return bool(dropped)

    def _select(self, where: str, values: Sequence[object]) -> list[StoredObject]:
        # The conditions are this module's own; what comes from others is always a value.
        rows = self._execute(
            f"SELECT kind, id, body, created, owner, follows, metadata FROM objects WHERE {where}",  # noqa: S608
            values,
        )
        return [StoredObject(*row[:-1], metadata=json.loads(row[-1])) for row in rows]

    def _execute(self, statement: str, values: Sequence[object] | dict[str, str] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        num_bytes = self._num_bytes
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # Some failures have ended it already.
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            self._num_bytes = num_bytes
            raise
        self._execute("COMMIT")
