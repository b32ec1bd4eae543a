"""Models that nobody has configured: served from a folder and from the hub's cache, and deleted from the latter."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, Call, chat, endless
from tests.fixtures import tiny_bert
from tests.fixtures.hub import files_of, write_cached

EMBEDDINGS = "/v1/embeddings"
KEY = "sk-found"
OUTSIDE = "outside"


class Place:
    """A folder of models with another beside it that is out of bounds, and a hub's cache."""

    def __init__(self, root: Path, llama: Path) -> None:
        self.llama, self.folder, self.cache = llama, root / "models", root / "hub"
        self.folder.mkdir()
        shutil.copytree(llama, self.folder / "llama")
        shutil.copytree(llama, root / OUTSIDE)
        tiny_bert.write(self.folder / "owner" / "bert")
        (self.folder / "self").symlink_to("self")
        (self.folder / "again").symlink_to(".")
        (self.folder / "empty").mkdir()
        half = shutil.copytree(llama, self.folder / "owner" / "half")
        (half / "model.safetensors").write_bytes(b"")
        self.fetch("owner/cached")
        # The folder's own has the name before.
        self.fetch("owner/bert")

    def fetch(self, name: str) -> Path:
        return write_cached(self.cache, name, files_of(self.llama))


def found(server: ServerProcess, **headers: str) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in server.get("/v1/models", **headers).json()["data"]}


def status_and_code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def start(root: Path, llama: Path, *arguments: object) -> tuple[ServerProcess, Place]:
    place = Place(root, llama)
    own = ("--models-dir", place.folder, "--serve-hub-cache", "--no-mlx-warmup", "--store-in-memory")
    folder = root / "server"
    folder.mkdir()
    return ServerProcess(folder, *own, *arguments, environment={"HF_HUB_CACHE": str(place.cache)}), place


@pytest.fixture(scope="module")
def place_and_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, ServerProcess]]:
    server, place = start(tmp_path_factory.mktemp("found"), tiny_model)
    with server:
        yield place, server.wait_until_ready()


@pytest.fixture
def server(place_and_server: tuple[Place, ServerProcess]) -> ServerProcess:
    return place_and_server[1]


@pytest.fixture
def place(place_and_server: tuple[Place, ServerProcess]) -> Place:
    return place_and_server[0]


class TestAreListed:
    def test_by_their_names_with_what_their_files_say(self, server: ServerProcess, tiny_model: Path) -> None:
        listed = found(server)
        assert {"llama", "owner/bert", "owner/cached"} <= listed.keys()
        assert not {"again/llama", "owner/half", "empty", "self"} & listed.keys()
        llama = listed["llama"]
        assert (llama["kind"], llama["context_length"], llama["on_demand"]) == ("lm", 131_072, True)
        assert llama["size_bytes"] == (tiny_model / "model.safetensors").stat().st_size
        # Of two with one name the folder's, which is an embedding model.
        assert (listed["owner/bert"]["kind"], listed["owner/cached"]["kind"]) == ("embeddings", "lm")
        assert {one["id"] for one in server.get("/anthropic/v1/models").json()["data"]} == set(listed)

    def test_without_any_that_is_configured_the_server_is_ready(self, server: ServerProcess) -> None:
        health = server.get("/health").json()
        assert (health["status"], health["models"]) == ("ok", {}), "what is found is told to who has a key"
        assert "smollm2" not in json.dumps(list(found(server)))


class TestAreServed:
    def test_by_their_names(self, server: ServerProcess) -> None:
        for name in ("llama", "owner/cached"):
            reply = server.post(chat(model=name))
            assert (reply.status_code, reply.json()["model"]) == (200, name)
        assert server.post({"model": "owner/bert", "input": "fox"}, EMBEDDINGS).status_code == 200
        states = found(server)
        assert {states[name]["status"] for name in ("llama", "owner/cached", "owner/bert")} == {"ready"}

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/responses", {"model": "llama", "input": "hi", "max_output_tokens": 4}),
            ("/v1/messages", {"model": "llama", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/completions", {"model": "llama", "prompt": ["a", "b"], "max_tokens": 2}),
            ("/v1/tokenize", {"model": "llama", "prompt": "hi"}),
        ],
    )
    def test_by_every_api_before_they_were_ever_listed(
        self, path: str, body: dict[str, Any], server: ServerProcess, place: Place
    ) -> None:
        name = f"new{path.replace('/', '-')}"
        (place.folder / name).symlink_to(place.llama)
        reply = server.post(body | {"model": name}, path)
        assert reply.status_code == 200, reply.text
        server.post({"model": name}, "/v1/models/unload")

    def test_under_limits_as_models_on_demand(self, server: ServerProcess) -> None:
        # Four have been asked for by now, and the default lets three be loaded.
        for name in ("llama", "owner/cached"):
            server.post({"model": name}, "/v1/models/load")
        server.post({"model": "owner/bert"}, "/v1/models/load")
        assert len(server.workers()) <= 3


class TestOtherNames:
    @pytest.mark.parametrize(
        "name",
        [
            f"../{OUTSIDE}",
            f"owner/../../{OUTSIDE}",
            "owner/../llama",
            "./llama",
            "llama/",
            "/llama",
            "again/llama",
            "self",
            "self/self",
            "owner",
            "..",
            ".",
            "",
            "LLAMA",
            "llama/model.safetensors",
            "owner--cached",
            "llama\0",
            "x" * 5000,
        ],
    )
    def test_are_plainly_not_there(self, server: ServerProcess, name: str) -> None:
        reply = server.post(chat(model=name))
        assert status_and_code(reply) == (404, "model_not_found")
        assert "'llama'" in reply.json()["error"]["message"]

    def test_nor_is_a_path(self, server: ServerProcess, place: Place) -> None:
        assert status_and_code(server.post(chat(model=str(place.folder / "llama")))) == (404, "model_not_found")
        assert status_and_code(server.post({"model": f"../{OUTSIDE}"}, "/v1/models/load")) == (404, "model_not_found")
        assert status_and_code(server.get(f"/v1/models/..%2F{OUTSIDE}")) == (404, "model_not_found")

    def test_a_model_that_cannot_be_served_says_why(self, server: ServerProcess) -> None:
        reply = server.post(chat(model="owner/half"))
        assert status_and_code(reply) == (404, "model_not_found")
        assert "model.safetensors is not a file of weights" in reply.json()["error"]["message"]

    def test_no_name_means_none_where_there_are_several(self, server: ServerProcess) -> None:
        assert status_and_code(server.post(chat())) == (404, "model_not_found")


class TestWhatChanges:
    def test_is_seen_when_models_are_listed_or_asked_for(self, server: ServerProcess, place: Place) -> None:
        shutil.copytree(place.llama, place.folder / "later")
        assert found(server)["later"]["kind"] == "lm"
        shutil.copytree(place.llama, place.folder / "latest")
        assert server.get("/v1/models/latest").status_code == 200
        place.fetch("owner/later")
        assert server.post(chat(model="owner/later")).status_code == 200
        shutil.rmtree(place.folder / "later")
        assert "later" not in found(server)
        assert status_and_code(server.post(chat(model="later"))) == (404, "model_not_found")

    def test_of_a_model_that_is_loaded_waits_until_it_is_not(self, server: ServerProcess, place: Place) -> None:
        folder = shutil.copytree(place.llama, place.folder / "going")
        with Call(server, endless(model="going")) as stream:
            stream.read_until_text()
            shutil.rmtree(folder)
            assert found(server)["going"]["status"] == "ready"
            stream.read_until_text()
        server.wait_until_idle("going")
        server.post({"model": "going"}, "/v1/models/unload")
        assert "going" not in found(server)


def test_the_one_that_is_configured_wins_and_needs_no_name(
    tiny_model: Path, tmp_path: Path, start_server: StartServer
) -> None:
    bert = tiny_bert.write(tmp_path / "models" / "chat")
    shutil.copytree(bert, tmp_path / "models" / "embed")
    shutil.copytree(bert, tmp_path / "models" / "hidden")
    own = ("--model-path", tiny_model, "--served-model-name", "chat")
    server = start_server(*own, "--models-dir", tmp_path / "models", "--allow-models", "e*", "--allow-models", "chat")
    server.wait_until_ready()
    assert {name: one["kind"] for name, one in found(server).items()} == {"chat": "lm", "embed": "embeddings"}
    assert server.post(chat()).json()["model"] == "chat"
    # With one alone, whatever name a request has would do.
    for name in ("other", "hidden"):
        assert status_and_code(server.post(chat(model=name))) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models-dir", "nowhere"), "nowhere, does not exist"),
        (("--allow-models", "x*"), "give --models-dir or --serve-hub-cache"),
        (("--allow-model-deletion",), "give --serve-hub-cache"),
    ],
)
def test_what_cannot_be_meant_ends_the_start(arguments: tuple[str, ...], words: str, start_server: StartServer) -> None:
    server = start_server(*arguments)
    assert server.wait() == 1
    assert words in server.log()


@pytest.fixture(scope="module")
def deleting(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, ServerProcess]]:
    root = tmp_path_factory.mktemp("deleting")
    (root / "keys.yaml").write_text(f"plain: sk-plain\nroot: {{key: {KEY}, admin: true}}\n")
    own = ("--allow-model-deletion", "--api-keys-file", root / "keys.yaml", "--model-path", "owner/kept")
    own += ("--max-concurrency", 1)
    server, place = start(root, tiny_model, *own)
    place.fetch("owner/kept")
    (place.folder / "linked").symlink_to(next((place.fetch("owner/linked") / "snapshots").iterdir()))
    with server:
        yield place, server.wait_until_ready()


class TestDeletion:
    def delete(self, server: ServerProcess, name: str, key: str = KEY) -> httpx.Response:
        return server.send("DELETE", f"/v1/models/{name}", **{"x-api-key": key})

    def test_frees_the_disk(self, deleting: tuple[Place, ServerProcess]) -> None:
        place, server = deleting
        assert server.post(chat(model="owner/cached"), CHAT, **{"x-api-key": KEY}).status_code == 200
        num_workers = len(server.workers())
        reply = self.delete(server, "owner/cached")
        assert reply.json() == {"id": "owner/cached", "object": "model", "deleted": True}
        assert not (place.cache / "models--owner--cached").exists()
        assert len(server.workers()) == num_workers - 1
        assert "owner/cached" not in found(server, **{"x-api-key": KEY})
        assert status_and_code(self.delete(server, "owner/cached")) == (404, "model_not_found")
        # It may come back.
        place.fetch("owner/cached")
        assert server.post(chat(model="owner/cached"), CHAT, **{"x-api-key": KEY}).status_code == 200

    def test_takes_an_admin(self, deleting: tuple[Place, ServerProcess]) -> None:
        place, server = deleting
        place.fetch("owner/other")
        assert status_and_code(self.delete(server, "owner/other", "sk-plain")) == (403, "admin_key_required")
        assert status_and_code(self.delete(server, "owner/other", "")) == (401, "invalid_api_key")
        assert (place.cache / "models--owner--other").exists()

    def test_not_under_a_stream(self, deleting: tuple[Place, ServerProcess]) -> None:
        place, server = deleting
        place.fetch("owner/busy")
        headers = {"x-api-key": KEY}
        with Call(server, endless(model="owner/busy"), headers=headers) as stream:
            stream.read_until_text()
            with Call(server, chat(model="owner/busy"), headers=headers) as waiting:
                eventually(lambda: server.stats("owner/busy", KEY)["queue_size"] == 1, "one waits")
                assert status_and_code(self.delete(server, "owner/busy?timeout=0.1")) == (409, "conflict")
                stream.read_until_text()
                stream.hang_up()
                # It is served as before, and deleted when nobody uses it.
                assert waiting.status == 200
        assert (place.cache / "models--owner--busy").exists()
        assert self.delete(server, "owner/busy?timeout=20").status_code == 200
        assert not (place.cache / "models--owner--busy").exists()

    def test_who_waits_for_the_model_is_told(self, deleting: tuple[Place, ServerProcess]) -> None:
        place, server = deleting
        place.fetch("owner/wanted")
        headers = {"x-api-key": KEY}
        with Call(server, endless(model="owner/wanted", max_tokens=1000), headers=headers) as stream:
            stream.read_until_text()
            with Call(server, chat(model="owner/wanted"), headers=headers) as waiting:
                eventually(lambda: server.stats("owner/wanted", KEY)["queue_size"] == 1, "one waits")
                assert self.delete(server, "owner/wanted").status_code == 200
                assert (waiting.status, waiting.json()["error"]["code"]) == (404, "model_not_found")
            *_, last = stream.chunks()
            assert last["choices"][0]["finish_reason"] == "length"
        assert status_and_code(server.post(chat(model="owner/wanted"), CHAT, **headers)) == (404, "model_not_found")

    def test_only_of_what_nobody_needs_in_the_cache(self, deleting: tuple[Place, ServerProcess]) -> None:
        place, server = deleting
        for name, words in {
            "llama": "--models-dir",
            "linked": "--models-dir",
            "owner/bert": "--models-dir",
            "owner/kept": "in this server's settings",
            "owner/linked": "'linked' is served here, too",
        }.items():
            reply = self.delete(server, name)
            assert status_and_code(reply) == (409, "conflict")
            assert words in reply.json()["error"]["message"]
        assert (place.folder / "llama").exists()
        assert len(list(place.cache.glob("models--owner--[bkl]*"))) == 3
        assert self.delete(server, "owner/linked?timeout=x").status_code == 400


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), "model_deletion_disabled", "--allow-model-deletion"),
        (("--allow-model-deletion",), "admin_key_required", "--api-key"),
        (("--allow-model-deletion", "--api-keys-file", "keys.yaml"), "admin_key_required", "admin: true"),
    ],
)
def test_deletion_is_off_until_it_is_asked_for_and_guarded(
    arguments: tuple[str, ...], code: str, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    server, place = start(tmp_path, tiny_model, *arguments)
    (tmp_path / "server" / "keys.yaml").write_text(f"plain: {KEY}\n")
    with server:
        reply = server.send("DELETE", "/v1/models/owner/cached", **{"x-api-key": KEY})
        assert status_and_code(reply) == (403, code)
        assert words in reply.json()["error"]["message"]
    assert (place.cache / "models--owner--cached").exists()


def test_an_api_key_is_enough_without_a_keys_file(tiny_model: Path, tmp_path: Path) -> None:
    server, place = start(tmp_path, tiny_model, "--allow-model-deletion", "--api-key", KEY)
    with server:
        reply = server.send("DELETE", "/models/owner/cached", **{"x-api-key": KEY})
        assert reply.status_code == 200, reply.text
    assert not (place.cache / "models--owner--cached").exists()
