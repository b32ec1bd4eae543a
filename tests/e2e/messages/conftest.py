from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from anthropic import Anthropic, AsyncAnthropic

from tests.e2e.messages.asking import KEY, open_client
from tests.e2e.processes import ServerProcess


@pytest.fixture(scope="package")
def client(server: ServerProcess) -> Iterator[Anthropic]:
    with open_client(server) as opened:
        yield opened


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(
        base_url=server.url, auth_token="none", max_retries=0, _strict_response_validation=True
    ) as opened:
        yield opened


@pytest.fixture(scope="package")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a key: `slow` reads prompts in small pieces, `single` has room for one request and one more."""
    folder = tmp_path_factory.mktemp("guarded")
    models = [
        {"served_model_name": "slow", "prefill_step_size": 16, "context_length": 50_000},
        {"served_model_name": "single", "max_concurrency": 1, "queue_size": 1},
    ]
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [{"model_path": str(tiny_model), **model} for model in models]}))
    arguments = ("--config", path, "--api-key", KEY, "--heartbeat-interval", 0.1)
    with ServerProcess(folder, *arguments) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="package")
def keyed(guarded: ServerProcess) -> Iterator[Anthropic]:
    with open_client(guarded, api_key=KEY) as opened:
        yield opened
