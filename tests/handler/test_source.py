import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

from app.core.hub import HUB_FILES
from app.errors import ModelLoadError
from app.handler.samples import sample_folder
from app.handler.source import resolve
from tests.fixtures import tiny_llama
from tests.fixtures.gguf_files import write_gguf
from tests.fixtures.hub import serve_hub

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00001.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"other weights",
    "README.md": b"# A model",
    "tiny.Q4_0.gguf": b"GGUF",
}

# The hub's address is read once, when huggingface_hub is imported: hence a process of its own.
RESOLVER = """
import json, sys
from pathlib import Path
from app.errors import ModelLoadError
from app.handler.source import resolve

for name in sys.argv[2:]:
    said = []
    try:
        folder = resolve(name, Path(sys.argv[1]), said.append)
        print(json.dumps({"files": sorted(path.name for path in folder.iterdir()), "said": said}))
    except ModelLoadError as error:
        print(json.dumps({"message": error.message, "said": said}))
"""


@pytest.fixture
def hub_url() -> Iterator[str]:
    with serve_hub(FILES) as url:
        yield url


def resolve_elsewhere(tmp_path: Path, environment: dict[str, str], *names: str) -> list[dict[str, object]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    command = [sys.executable, "-c", RESOLVER, str(tmp_path / "cache"), *names]
    done = subprocess.run(
        command,
        check=False,
        cwd=Path(__file__).parents[2],
        env=inherited | own,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_id_is_downloaded_with_the_files_a_model_needs(hub_url: str, tmp_path: Path) -> None:
    (answer,) = resolve_elsewhere(tmp_path, {"HF_ENDPOINT": hub_url}, "owner/tiny")

    assert answer == {
        "files": ["chat_template.jinja", "config.json", "model-00001-of-00001.safetensors"],
        "said": ["fetching owner/tiny from the Hugging Face hub"],
    }
    # What was downloaded is found again when there is no network.
    (offline,) = resolve_elsewhere(tmp_path, {"HF_ENDPOINT": hub_url, "HF_HUB_OFFLINE": "1"}, "owner/tiny")
    assert offline == answer


def test_what_the_hub_refuses_is_one_sentence_of_advice(hub_url: str, tmp_path: Path) -> None:
    names = ("owner/unknown", "smollm", "owner/gated", "not a name!")

    messages = [str(a["message"]) for a in resolve_elsewhere(tmp_path, {"HF_ENDPOINT": hub_url}, *names)]

    unknown, misspelt, gated, invalid = messages
    assert unknown.startswith("owner/unknown is neither a local folder, nor a model on the Hugging Face hub")
    assert "a sample (smollm2-135m-instruct, " in misspelt
    assert gated.startswith("owner/gated is gated: accept its terms at https://huggingface.co/owner/gated and run `hf")
    assert invalid.startswith("not a name! is neither")
    for message in messages:
        assert "\n" not in message


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=str)
def test_without_a_network_the_samples_are_offered(environment: dict[str, str], tmp_path: Path) -> None:
    (answer,) = resolve_elsewhere(tmp_path, environment, "owner/tiny")

    assert str(answer["message"]).startswith(
        "owner/tiny is not complete on this machine and the Hugging Face hub cannot"
    )
    assert "serve a sample (smollm2-135m-instruct, " in str(answer["message"])


def test_the_files_are_those_that_mlx_lm_downloads() -> None:
    assert list(HUB_FILES) == DEFAULT_ALLOW_PATTERNS


def test_a_sample_name_comes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-minilm-l6-v2").mkdir()
    monkeypatch.chdir(tmp_path)

    folder = resolve("all-minilm-l6-v2", tmp_path / "cache", lambda _: None)

    assert folder == sample_folder("all-minilm-l6-v2", tmp_path / "cache", lambda _: None)
    assert resolve("./all-minilm-l6-v2", tmp_path / "cache", lambda _: None) == Path("all-minilm-l6-v2")


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []

    assert resolve(str(tmp_path), tmp_path / "cache", said.append) == tmp_path
    assert resolve("owner/model", tmp_path / "cache", said.append) == Path("owner/model")
    assert resolve("~/owner", tmp_path / "cache", said.append) == tmp_path / "owner"
    assert said == []


def test_a_gguf_file_is_converted_into_the_cache(tmp_path: Path) -> None:
    shape = tiny_llama.Shape()
    metadata, tensors = tiny_llama.metadata(shape), tiny_llama.tensors(tiny_llama.build(shape), shape)
    path = write_gguf(tmp_path / "Tiny.Q8_0.GGUF", metadata, tensors)
    said: list[str] = []

    folder = resolve(str(path), tmp_path / "cache", said.append)

    assert folder == resolve(str(path), tmp_path / "cache", said.append)
    assert folder.parent == tmp_path / "cache" / "models"
    assert folder.name.startswith("Tiny.Q8_0-")
    assert (folder / "model.safetensors").is_file()
    assert len(said) == 1


def test_a_gguf_file_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" * 50)

    with pytest.raises(ModelLoadError, match=r"broken\.gguf is GGUF version"):
        resolve(str(path), tmp_path / "cache", lambda _: None)

    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()

    with pytest.raises(ModelLoadError, match=r"model\.safetensors is a file; name the folder"):
        resolve(str(path), tmp_path, lambda _: None)


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/model",
        "./model",
        "../model",
        "~/no-such-model",
        "a/b/c",
        "owner/model.gguf",
        "model.GGUF",
        "models/",
        "",
    ],
)
def test_a_path_that_does_not_exist_is_never_sent_to_the_hub(name: str, tmp_path: Path) -> None:
    said: list[str] = []

    with pytest.raises(ModelLoadError, match="does not exist; name an existing folder"):
        resolve(name, tmp_path, said.append)

    assert said == []
