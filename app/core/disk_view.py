"""What lies on disk of a model, as it was last looked at."""

import asyncio
from pathlib import Path

from app.core import machine
from app.core.model_files import ModelFiles, expected_bytes, read_model_files
from app.settings import ModelSpec


class DiskView:
    """A model's files and the memory they are expected to take; nothing is known until they are looked at.

    Owned by the event loop's thread.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.files: ModelFiles | None = None
        self.expected_bytes = 0
        # Set when they were looked at for the first time, or never will be.
        self.is_known = asyncio.Event()
        self._spec = spec
        self._used: Path | None = None
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Look again."""
        self.files = await asyncio.to_thread(read_model_files, self._spec, self._used)
        if self.files is None:
            self.expected_bytes = 0
        else:
            memory_bytes, is_cpu = machine.memory_bytes(), machine.computes_on_cpu()
            self.expected_bytes = expected_bytes(self.files, self._spec, memory_bytes=memory_bytes, is_cpu=is_cpu)
        self.is_known.set()

    def note_folder(self, folder: Path) -> None:
        """The model was loaded from there: of what was not on this machine before, more is known now."""
        if folder != self._used:
            self._used = folder
            self._looking = asyncio.create_task(self.look(), name=f"files of {self._spec.name}")

    async def close(self) -> None:
        """Wait until nobody looks any more."""
        self.is_known.set()
        if self._looking is not None:
            await asyncio.wait([self._looking])
