from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core.events import Event
from app.core.requests import ImageRequest
from app.handler.flux.handler import FluxHandler
from app.settings import ModelSpec
from tests.fixtures import tiny_flux
from tests.fixtures.driving import run


class Bench:
    """A loaded handler and what each request was told."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.events: dict[int, list[Event]] = {}
        spec = ModelSpec.model_validate({"model_path": str(folder), **settings})
        self.handler = FluxHandler(
            folder, spec, lambda request_id, event: self.events.setdefault(request_id, []).append(event)
        )
        self.info = self.handler.load()

    def submit(self, request_id: int, prompt: str = "a cat", **fields: Any) -> None:
        asked: dict[str, Any] = {"seed": 1, "size": (16, 16), "num_steps": 2} | fields
        self.handler.submit(request_id, self.handler.prepare(ImageRequest(prompt, **asked)))

    def make(self, prompt: str = "a cat", **fields: Any) -> list[Event]:
        """What one request is told that has the handler for itself."""
        self.submit(-1, prompt, **fields)
        run(self.handler.turn)
        return self.events.pop(-1)


StartBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux.write(tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture(scope="session")
def bench(flux_folder: Path) -> Iterator[Bench]:
    """For tests that leave nothing in its line."""
    made = Bench(flux_folder)
    yield made
    made.handler.close()
