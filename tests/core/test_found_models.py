"""Models that nobody has configured, in a registry with real workers."""

import asyncio
import shutil
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.core.found_models import Search
from app.core.model_files import ModelFiles, read_model_files
from app.core.registry import Registry
from app.core.room import Limits
from app.errors import Conflict, ModelLoadError, ModelNotFound
from app.models.local_models import LocalModels
from app.settings import ModelSpec
from tests.fixtures.hub import files_of, write_cached
from tests.fixtures.serving import PATIENCE_S, PLENTY, read_to_end, run, streaming, until

SPEC = ModelSpec(on_demand=True, warmup=False, queue_size=7)


@pytest.fixture
def root(tmp_path: Path, llama_folder: Path) -> Path:
    """A folder with one model."""
    shutil.copytree(llama_folder, tmp_path / "models" / "one")
    return tmp_path / "models"


@asynccontextmanager
async def running(finder: LocalModels, cache_dir: Path, *specs: ModelSpec) -> AsyncGenerator[Registry]:
    registry = Registry(specs, cache_dir, Limits(3, PLENTY), Search(finder, SPEC))
    registry.start()
    try:
        yield registry
    finally:
        await registry.close()


async def test_are_there_without_being_asked_for(root: Path, tmp_path: Path) -> None:
    async with running(LocalModels(root), tmp_path) as registry:
        assert await registry.wait_until_loaded()
        await until(lambda: registry.models, "it was found")
        assert registry.find(None).spec == SPEC.model_copy(
            update={"model_path": str(root / "one"), "served_model_name": "one"}
        )
        # Another name is another model, and not the only one whatever the name.
        with pytest.raises(ModelNotFound, match="this server has 'one'"):
            await registry.seek("other")


async def test_one_that_failed_is_looked_for_again(root: Path, tmp_path: Path) -> None:
    (root / "one" / "tokenizer.json").write_text("{}")
    async with running(LocalModels(root), tmp_path) as registry:
        for _ in range(2):
            with pytest.raises(ModelLoadError):
                await run(registry, "one")
        assert registry.models["one"].life.num_loads == 0
        failed = registry.models["one"]
        shutil.rmtree(root / "one")
        with pytest.raises(ModelNotFound):
            await run(registry, "one")
        assert registry.models == {}
        # Who had it in hand when it went is told so, and does not wait for it.
        with pytest.raises(ModelNotFound, match="no longer served"):
            await failed.load()


async def test_of_one_that_is_asked_for_by_name_it_is_known_what_it_is(
    llama_folder: Path, root: Path, tmp_path: Path
) -> None:
    async with running(LocalModels(root), tmp_path) as registry:
        await registry.refresh()
        shutil.copytree(llama_folder, root / "late")
        files = (await registry.seek("late")).life.disk.files
        assert files is not None
        assert files.kind == "lm"


async def test_another_version_replaces_one_that_is_not_in_use(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write_cached(tmp_path / "hub", "owner/a", files_of(llama_folder), commit="1" * 40)
    async with running(LocalModels(None, has_cache=True), tmp_path) as registry:
        async with streaming(registry, "owner/a"):
            old = registry.models["owner/a"]
            write_cached(tmp_path / "hub", "owner/a", files_of(llama_folder), commit="2" * 40)
            await registry.refresh()
            assert registry.models["owner/a"] is old
        await old.unload(10)
        await registry.refresh()
        assert registry.models["owner/a"].spec.model_path.endswith("2" * 40)
        assert old.state == "stopped"
        await run(registry, "owner/a")


class Watched(LocalModels):
    """Notes how often it is asked for everything, and how many ask at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.num_scans = self.num_looks = self.num_now = self.most_at_once = 0
        self._lock = threading.Lock()

    def find_all(self) -> dict[str, Path]:
        with self._lock:
            self.num_scans += 1
            self.num_now += 1
            self.most_at_once = max(self.most_at_once, self.num_now)
        try:
            return super().find_all()
        finally:
            self.num_now -= 1

    def find(self, name: str) -> Path | None:
        self.num_looks += 1
        return super().find(name)


class Removable(LocalModels):
    """Deletes its folder's models, each when it may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.may_delete = threading.Event()

    def plan_removal(self, name: str, others: Sequence[ModelSpec]) -> Callable[[], None]:
        def remove() -> None:
            assert self.may_delete.wait(PATIENCE_S)
            shutil.rmtree(self.folder / name)

        return remove


async def test_one_that_is_being_deleted_is_not_found_again(root: Path, tmp_path: Path) -> None:
    finder = Removable(root)
    async with running(finder, tmp_path) as registry:
        async with streaming(registry, "one") as stream:
            deletion = asyncio.create_task(registry.delete("one", PATIENCE_S))
            await until(lambda: registry.models["one"].state == "unloading", "it is unloaded")
            with pytest.raises(Conflict, match="being deleted already"):
                await registry.delete("one", 0)
            await read_to_end(stream)
        await until(lambda: not registry.models, "it is deleted")
        await registry.refresh()
        for attempt in (registry.delete("one", 0), run(registry, "one")):
            with pytest.raises(ModelNotFound):
                await attempt
        finder.may_delete.set()
        await deletion
        assert not (root / "one").exists()


class Late(LocalModels):
    """Tells what it has seen when it may."""

    def __init__(self) -> None:
        super().__init__(None, has_cache=True)
        self.has_seen = False
        self.may_tell = threading.Event()
        self.may_tell.set()

    def find_all(self) -> dict[str, Path]:
        seen = super().find_all()
        self.has_seen = True
        assert self.may_tell.wait(PATIENCE_S)
        return seen


async def test_one_that_was_seen_before_it_was_deleted_is_not_served_again(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    place = write_cached(tmp_path / "hub", "owner/a", files_of(llama_folder))
    finder = Late()
    async with running(finder, tmp_path) as registry:
        # The first look may be the second.
        for _ in range(2):
            await registry.refresh()
        finder.may_tell.clear()
        finder.has_seen = False
        looking = asyncio.create_task(registry.refresh())
        await until(lambda: finder.has_seen, "it was seen")
        deletion = asyncio.create_task(registry.delete("owner/a", PATIENCE_S))
        await until(lambda: not place.exists(), "it is deleted")
        # It is not over before the look is.
        await asyncio.wait([deletion], timeout=0.3)
        finder.may_tell.set()
        await asyncio.gather(looking, deletion)
        assert registry.models == {}


async def test_the_end_does_not_wait_for_a_look(root: Path, tmp_path: Path) -> None:
    finder = Late()
    finder.may_tell.clear()
    try:
        async with asyncio.timeout(PATIENCE_S), running(finder, tmp_path):
            await until(lambda: finder.has_seen, "it looks")
    finally:
        finder.may_tell.set()


async def test_files_of_new_ones_are_read_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noting(spec: ModelSpec, used: Path | None) -> ModelFiles | None:
        read.append(spec.name)
        return read_model_files(spec, used)

    monkeypatch.setattr("app.core.disk_view.read_model_files", noting)
    async with running(LocalModels(root), tmp_path) as registry:
        await registry.refresh()
        assert registry.models["one"].kind == "lm"
    assert read == ["one"]


async def test_one_that_goes_is_not_unloaded(root: Path, tmp_path: Path) -> None:
    async with running(LocalModels(root), tmp_path) as registry:
        going = await registry.named("one")
        await going.withdraw(PATIENCE_S)
        with pytest.raises(ModelNotFound, match="no longer served"):
            await going.unload(PATIENCE_S)


async def test_many_who_list_share_a_look_and_known_names_need_none(root: Path, tmp_path: Path) -> None:
    finder = Watched(root)
    async with running(finder, tmp_path) as registry:
        await registry.refresh()
        finder.num_scans = 0
        await asyncio.gather(*(registry.refresh() for _ in range(20)))
        # The first has begun when the others come, who want to see what is there now.
        assert (finder.num_scans, finder.most_at_once) == (2, 1)
        for _ in range(3):
            await run(registry, "one")
        assert (finder.num_scans, finder.num_looks) == (2, 0)


async def test_of_many_names_those_like_the_one_asked_for_are_told(root: Path, tmp_path: Path) -> None:
    for number in range(30):
        (root / f"{number}.gguf").touch()
    (root / "qwen3-8b.gguf").touch()
    async with running(LocalModels(root), tmp_path) as registry:
        await registry.refresh()
        with pytest.raises(ModelNotFound, match=r"this server has 'qwen3-8b.gguf' and 31 more"):
            await registry.seek("qwen3-8b")
        with pytest.raises(ModelNotFound, match=r"No model was named; .* and 22 more, which GET /v1/models lists"):
            await registry.seek(None)


async def test_one_too_many_is_refused_with_advice(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.found_models.MOST_FOUND", 1)
    (root / "two.gguf").touch()
    async with running(LocalModels(root), tmp_path) as registry:
        assert (await registry.seek("one")).spec.name == "one"
        with pytest.raises(ModelNotFound, match=r"no more than 1 models .* --allow-models"):
            await registry.seek("two.gguf")
        shutil.rmtree(root / "one")
        await registry.refresh()
        assert set(registry.models) == {"two.gguf"}
