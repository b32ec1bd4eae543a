import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

from app.errors import ModelLoadError
from app.handler.samples import sample_folder
from app.handler.source import HUB_FILES, resolve
from tests.fixtures import tiny_llama
from tests.fixtures.gguf_files import write_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
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


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: owner/tiny is there, owner/gated asks for terms, the rest is not found.

    Source: https://huggingface.co/docs/hub/api and the headers that huggingface_hub reads.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/models/")
        if path.startswith("owner/gated"):
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif path in ("owner/tiny", "owner/tiny/revision/main"):
            siblings = [{"rfilename": name} for name in FILES]
            self._answer(200, json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"owner/tiny/tree/{COMMIT}"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in FILES.items()]
            self._answer(200, json.dumps(tree).encode())
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self._answer(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing: the test's output is for its own words."""

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


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
