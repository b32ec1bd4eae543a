"""What leaves the store by itself, as JSON files: one for each object, with its parts."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from loguru import logger

from app.core.store_file import StoreError
from app.core.store_objects import StoredObject


class Archive:
    """A folder of `ID.json` files, readable by their user alone. Owned by the store's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_usable = os.access(folder, os.W_OK | os.X_OK)
        except OSError:
            is_usable = False
        if not is_usable:
            raise StoreError(f"{folder} cannot be written to: give another folder with --conversation-logs-dir")

    def write(self, one: StoredObject, parts: Sequence[StoredObject], now: float) -> None:
        """Write a file; a failure is logged, and the object leaves all the same."""
        content = {
            "id": one.id,
            "kind": one.kind,
            "created_at": one.created,
            "expired_at": now,
            "object": msgspec.Raw(one.body),
            "parts": [{"kind": part.kind, "object": msgspec.Raw(part.body)} for part in parts],
        }
        path = self._folder / f"{one.id}.json"
        draft = path.with_suffix(".draft")
        try:
            # A file with its right name is a whole one.
            with open(draft, "wb", opener=_for_this_user) as file:
                file.write(msgspec.json.encode(content))
            draft.replace(path)
        except OSError as error:
            logger.error("{} could not be archived in {}: {}", one.id, self._folder, error)


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
