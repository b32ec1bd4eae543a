"""The SQLite file of the store: opened, locked, brought to this version's schema."""

import sqlite3
from pathlib import Path

IN_MEMORY = Path(":memory:")
SCHEMA_VERSION = 1
# In the file's header, so that another program's database is not taken for ours.
_APPLICATION_ID = 0x4D4C5853
_PRAGMAS = (
    # Only possible before the first table is made: what is deleted gives its room back.
    "auto_vacuum = INCREMENTAL",
    # What is committed outlives this process whatever happens to it, and the machine from the next checkpoint on.
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "journal_size_limit = 16777216",
)
_SCHEMA = (
    """
    CREATE TABLE objects (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        owner TEXT NOT NULL,
        follows TEXT,
        created REAL NOT NULL,
        expires REAL NOT NULL,
        size INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (kind, owner, id)
    )
    """,
    "CREATE INDEX parts ON objects (owner, kind, seq)",
    "CREATE INDEX by_id ON objects (id)",
    "CREATE INDEX followers ON objects (follows) WHERE follows IS NOT NULL",
    "CREATE INDEX by_expiry ON objects (expires) WHERE owner = ''",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class StoreError(Exception):
    """The store cannot be used; the message is one sentence, without its full stop, that says what to do."""


class StoreInUse(StoreError):
    """Another server has the file."""


def open_file(path: Path) -> sqlite3.Connection:
    """Open the store at `path`, or a new one, for this process alone and readable by its user alone.

    The connection is in autocommit mode and may be used by one thread at a time. Errors: StoreError, StoreInUse.
    """
    try:
        if path != IN_MEMORY:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives the files that it puts beside it the same permissions.
            path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"the store {path} cannot be opened ({reason}): give another with --store-path") from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _explained(error, path) from None
    except StoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Lock the file until the connection or the process ends, and make or check its schema."""
    connection.execute("PRAGMA busy_timeout = 0")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    is_new = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    if not is_new:
        _check_header(connection, path)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA if is_new else ():
        connection.execute(statement)
    connection.execute("COMMIT")


def _check_header(connection: sqlite3.Connection, path: Path) -> None:
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if application != _APPLICATION_ID:
        raise StoreError(f"{path} is another program's database: give another file with --store-path")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} is of a newer version of this server (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): update the server, or give another file with --store-path"
        )


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreInUse(f"the store {path} is in use by another server: give this one another with --store-path")
    return StoreError(f"the store {path} is broken ({error}): delete it, or give another with --store-path")
