from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.responses.asking import open_client


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with open_client(server) as opened:
        yield opened


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as opened:
        yield opened


@pytest.fixture(scope="package")
def single(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that works on one request at a time and reads prompts in small pieces, each silence short."""
    arguments = ("--model-path", tiny_model, "--max-concurrency", 1, "--prefill-step-size", 4)
    folder = tmp_path_factory.mktemp("single")
    with ServerProcess(folder, *arguments, "--heartbeat-interval", 0.02, "--context-length", 3_000) as running:
        yield running.wait_until_ready()


@pytest.fixture
def single_client(single: ServerProcess) -> Iterator[OpenAI]:
    with open_client(single) as opened:
        yield opened
    single.wait_until_idle()
