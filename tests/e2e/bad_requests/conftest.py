from collections.abc import Iterator

import pytest

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import chat


@pytest.fixture(autouse=True)
def _serves_on(server: ServerProcess) -> Iterator[None]:
    """After each test the server answers a good request and holds nothing of the bad ones."""
    yield
    assert server.post(chat(max_tokens=1)).status_code == 200
    server.wait_for_load(active=0, waiting=0)
