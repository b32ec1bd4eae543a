from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import ServerProcess
from tests.fixtures import never_loading as never_loading_model

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of random weights with a context long enough for prompts and answers that do not end."""
    # Naming MLX costs a second: only those tests pay for it that need a model.
    from tests.fixtures import tiny_lm

    return tiny_lm.llama(tmp_path_factory.mktemp("models") / "tiny-llama", context_length=131_072)


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that leave it as it was."""
    arguments = ("--model-path", tiny_model, "--served-model-name", "tiny/llama", "--max-body-size", "16MiB")
    with ServerProcess(tmp_path_factory.mktemp("server"), *arguments) as running:
        yield running.wait_until_ready()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that end with the test; they may not be ready yet."""
    with ExitStack() as stack:

        def start(*arguments: object, environment: dict[str, str] | None = None) -> ServerProcess:
            folder = tmp_path / f"server-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(ServerProcess(folder, *arguments, environment=environment))

        yield start


@pytest.fixture
def never_loading(tmp_path: Path) -> Path:
    """A model folder whose loading never ends."""
    return never_loading_model.write(tmp_path / "pipe")
