"""Which files and folders are models that may be served, and what they are called."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import Conflict, ModelNotFound
from app.models import local_models
from app.models.local_models import LocalModels, problem_of_places
from app.settings import ModelSpec, Settings
from tests.fixtures.hub import COMMIT, files_of, write_cached

Write = Callable[[str], Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def write(root: Path, llama_folder: Path) -> Write:
    """Puts a model into the folder."""
    return lambda name: shutil.copytree(llama_folder, root / name)


def test_folders_and_gguf_files_on_two_levels(root: Path, write: Write) -> None:
    names = ["a", "owner/b", "owner/c.gguf", "d.GGUF"]
    for name in ("a", "owner/b", "owner/deeper/e", ".hidden", ".cache/f", "a/inside", "new\nline"):
        write(name)
    for name in ("owner/c.gguf", "d.GGUF", "owner/deeper/g.gguf", "notes.txt", "model.safetensors"):
        (root / name).write_bytes(b"GGUF")
    (root / "folder.gguf").mkdir()
    if sys.platform != "darwin":
        # A Mac's file system has no names that are no text.
        (root / os.fsdecode(b"\xff")).mkdir()
        shutil.copytree(root / "a", root / os.fsdecode(b"\xff") / "h")
    models = LocalModels(root)
    assert models.find_all() == {name: root / name for name in sorted(names)}
    assert {name: models.find(name) for name in names} == {name: root / name for name in names}
    for name in ("owner/deeper/e", "owner/deeper", "new\nline", "notes.txt", "owner", "a/", "a/inside"):
        assert models.find(name) is None


def test_parts_of_an_image_model_are_none(root: Path, write: Write) -> None:
    (root / "flux" / "transformer").mkdir(parents=True)
    write("flux/text_encoder")
    models = LocalModels(root)
    assert models.find_all() == {}
    assert models.find("flux/text_encoder") is None
    with pytest.raises(ModelNotFound, match="'flux' is on this machine and cannot be served"):
        models.find("flux")


def test_links_are_followed_but_not_back(root: Path, write: Write, tmp_path: Path) -> None:
    write("../elsewhere/a")
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "owner").symlink_to(tmp_path / "elsewhere")
    (root / "itself").symlink_to("itself")
    (root / "here").symlink_to(".")
    (root / "up").symlink_to(tmp_path)
    (root / "nowhere").symlink_to("absent")
    models = LocalModels(root)
    assert set(models.find_all()) == {"a", "owner/a"}
    for name in ("here/a", "up/models", "up/elsewhere", "itself", "nowhere", "../elsewhere/a", str(root / "a")):
        assert models.find(name) is None


def test_what_was_found_is_looked_at_again_when_its_folder_changes(root: Path, write: Write) -> None:
    folder = write("a")
    models = LocalModels(root)
    assert models.find("a") == folder
    (folder / "model.safetensors").rename(folder / "model.safetensors.part")
    assert models.find_all() == {}
    with pytest.raises(ModelNotFound, match="it has no weights"):
        models.find("a")
    (folder / "model.safetensors.part").rename(folder / "model.safetensors")
    assert models.find("a") == folder
    (folder / "config.json").write_text("[" * 100_000)
    (folder / "new").touch()
    assert models.find_all() == {}


def test_only_allowed_names(root: Path, write: Write) -> None:
    for name in ("a", "owner/a", "owner/b", "other/a"):
        write(name)
    models = LocalModels(root, ("owner/*", "[!b]"))
    assert set(models.find_all()) == {"a", "owner/a", "owner/b"}
    assert (models.find("owner/b"), models.find("other/a")) == (root / "owner" / "b", None)


def test_no_more_than_a_server_can_keep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_models, "MOST_FOUND", 3)
    for number in range(5):
        (root / f"{number}.gguf").touch()
    assert set(LocalModels(root).find_all()) == {"0.gguf", "1.gguf", "2.gguf"}


class TestTheCache:
    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        return tmp_path / "hub"

    def test_has_models_by_their_repositories(self, cache: Path, llama_folder: Path, tmp_path: Path) -> None:
        models = LocalModels(None, has_cache=True)
        assert models.find_all() == {}
        files = files_of(llama_folder)
        place = next((write_cached(cache, "owner/a", files) / "snapshots").iterdir())
        write_cached(cache, "plain", files)
        write_cached(cache, "owner/old", files, ref="v1")
        (cache / "datasets--owner--data").mkdir()
        assert set(models.find_all()) == {"owner/a", "plain"}
        assert models.find("owner/a") == place
        for name in ("owner--a", "owner/old", "models--owner--a", str(place), "../hub/models--owner--a"):
            assert models.find(name) is None
        assert LocalModels(tmp_path).find("owner/a") is None

    def test_gives_way_to_the_folder(self, cache: Path, llama_folder: Path, root: Path, write: Write) -> None:
        write_cached(cache, "owner/a", files_of(llama_folder))
        own = write("owner/a")
        models = LocalModels(root, has_cache=True)
        assert (models.find("owner/a"), models.find_all()) == (own, {"owner/a": own})
        with pytest.raises(Conflict, match="--models-dir"):
            models.plan_removal("owner/a", ())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    for module in ("huggingface_hub.constants", "huggingface_hub.utils._cache_manager"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_what_others_need_of_a_repository_stays(hub: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = write_cached(hub, "owner/a", files_of(llama_folder)) / "snapshots" / COMMIT
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "blob.gguf").symlink_to(folder / "config.json")
    (folder / "stored.gguf").symlink_to(llama_folder / "config.json")
    models = LocalModels(None, has_cache=True)
    for spec in (
        ModelSpec(model_path=str(folder)),
        ModelSpec(model_path=str(tmp_path / "link")),
        ModelSpec(model_path=str(tmp_path / "blob.gguf")),
        ModelSpec(model_path=str(folder / "stored.gguf")),
        ModelSpec(draft_model_path="owner/a"),
        ModelSpec(adapter_path=folder),
        ModelSpec(adapters={"b": tmp_path / "c", "a": folder}),
        ModelSpec(chat_template_file=folder / "config.json"),
        ModelSpec(lora_paths=(str(folder / "model.safetensors"),)),
    ):
        with pytest.raises(Conflict, match="is served here, too"):
            models.plan_removal("owner/a", [ModelSpec(), spec])
    models.plan_removal("owner/a", [ModelSpec(), ModelSpec(model_path=str(tmp_path))])()
    assert not list(hub.iterdir())


def test_what_cannot_be_looked_at_is_not_deleted(hub: Path, llama_folder: Path) -> None:
    folder = write_cached(hub, "owner/a", files_of(llama_folder))
    models = LocalModels(None, has_cache=True)
    # As a folder that may not be entered, but for root as well.
    (other := folder.with_name("models--owner--b") / "refs").mkdir(parents=True)
    (other.parent / "snapshots").mkdir()
    (other / "main").symlink_to(other / "main")
    with pytest.raises(Conflict, match="cannot be read"):
        models.plan_removal("owner/a", [])
    assert folder.is_dir()


def test_what_is_left_of_a_model_is_told(hub: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cached(hub, "owner/a", files_of(llama_folder))
    remove = LocalModels(None, has_cache=True).plan_removal("owner/a", [])

    def rmtree(_path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(Conflict, match="could not be removed whole"):
        remove()


def test_a_folder_that_cannot_be_looked_at() -> None:
    assert "cannot be read" in (problem_of_places(Settings(models_dir=Path("/" + "a" * 300))) or "")
