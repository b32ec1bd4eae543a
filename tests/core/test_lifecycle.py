"""Models that come and go: real workers, tiny models."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from loguru import logger

from app.core.events import Finished
from app.core.room import Limits
from app.errors import Conflict, ModelLoadError, ModelUnavailable, QueueTimeout
from tests.conftest import FolderByName
from tests.fixtures import never_loading
from tests.fixtures.serving import PLENTY, read_to_end, run, running, spec, streaming, until


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_who_asks_for_a_cold_model_shares_its_load(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, spec(llama_folder, "a"), spec(llama_folder, "b")) as registry:
        assert await registry.wait_until_loaded()
        a, b = registry.models["a"], registry.models["b"]
        assert (a.state, a.worker_pid) == ("unloaded", None)
        first, second = await asyncio.gather(run(registry, "a"), run(registry, "a"))
        assert [type(event) for event in first] == [type(event) for event in second]
        assert (a.state, a.life.num_loads, a.num_leases) == ("ready", 1, 0)
        assert (b.state, b.life.num_loads) == ("unloaded", 0)


async def test_an_idle_model_is_unloaded_and_comes_back(llama_folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.strip()), format="{message}", level="INFO")
    try:
        async with running(tmp_path, spec(llama_folder, "a", on_demand_idle_timeout=0.3)) as registry:
            model = registry.models["a"]
            await run(registry, "a")
            async with streaming(registry, "a") as stream:
                pid = model.worker_pid
                assert pid is not None
                # Longer than the time-out: it is in use.
                await asyncio.sleep(0.5)
                assert model.state == "ready"
                assert isinstance(await read_to_end(stream), Finished)
            await until(lambda: model.state == "unloaded", "unloaded")
            assert is_gone(pid)
            await run(registry, "a")
            assert model.life.num_loads == 2
    finally:
        logger.remove(sink)
    states = [line.removeprefix("a: ").split()[0].strip(":") for line in lines if line.startswith("a: ")]
    states = [state for state in states if state in ("loading", "ready", "unloading", "unloaded", "stopped")]
    assert states == ["loading", "ready", "unloading", "unloaded", "loading", "ready", "stopped"]
    assert "a: unloading: not used for 0.3 s" in lines


async def test_room_is_made_when_the_last_request_is_through(llama_folder: Path, tmp_path: Path) -> None:
    specs = [spec(llama_folder, name) for name in "abc"]
    async with running(tmp_path, *specs, limits=Limits(2, PLENTY)) as registry:
        a, b, c = registry.models.values()
        await run(registry, "b")
        async with streaming(registry, "a") as stream:
            # Nobody uses b, whoever came first.
            await run(registry, "c")
            assert [model.state for model in (a, b, c)] == ["ready", "unloaded", "ready"]
            async with streaming(registry, "c") as other:
                waiting = asyncio.create_task(run(registry, "b"))
                await until(lambda: b.life.waits_for, "b waits")
                assert b.state == "loading"
                assert "'a', 'c'" in (b.reason or "")
                assert isinstance(await read_to_end(stream), Finished)
                assert isinstance(await read_to_end(other), Finished)
        await waiting
        assert b.state == "ready"
        assert [model.state for model in (a, c)].count("unloaded") == 1


async def test_a_long_wait_makes_a_busy_model_finish_and_leave(llama_folder: Path, tmp_path: Path) -> None:
    specs = [spec(llama_folder, name) for name in "ab"]
    async with running(tmp_path, *specs, limits=Limits(1, PLENTY, patience_s=0)) as registry:
        a, b = registry.models.values()
        async with streaming(registry, "a") as stream:
            other = asyncio.create_task(run(registry, "b"))
            await until(lambda: a.state == "unloading", "a is to leave")
            again = asyncio.create_task(run(registry, "a"))
            assert isinstance(await read_to_end(stream), Finished)
        # Who came while it was unloaded is served by the next load.
        await asyncio.gather(other, again)
        assert (a.life.num_loads, b.life.num_loads, a.num_restarts) == (2, 1, 0)


async def test_who_gives_up_waiting_gives_the_room_back(llama_folder: Path, tmp_path: Path) -> None:
    specs = [spec(llama_folder, name) for name in "ab"]
    async with running(tmp_path, *specs, limits=Limits(1, PLENTY, patience_s=0)) as registry:
        a, b = registry.models.values()
        async with streaming(registry, "a") as stream:
            other = asyncio.create_task(run(registry, "b"))
            await until(lambda: a.state == "unloading", "a is to leave")
            other.cancel()
            await until(lambda: a.state == "ready" and b.state == "unloaded", "a stays")
            await run(registry, "a")
            assert isinstance(await read_to_end(stream), Finished)
        assert (a.life.num_loads, b.life.num_loads) == (1, 0)


async def test_waiting_for_room_ends_with_what_is_missing(llama_folder: Path, tmp_path: Path) -> None:
    specs = [spec(llama_folder, "a"), spec(llama_folder, "b", queue_timeout=0.2)]
    async with running(tmp_path, *specs, limits=Limits(1, PLENTY)) as registry:
        async with streaming(registry, "a") as stream:
            with pytest.raises(QueueTimeout, match=r"within 0\.2 s: 1 on-demand models are in use.*'a'"):
                await run(registry, "b")
            await until(lambda: registry.models["b"].state == "unloaded", "nobody waits")
            await read_to_end(stream)
        # The pressure has passed: whoever asks gets it loaded, even without the patience to see it.
        with suppress(QueueTimeout):
            await run(registry, "b")
        await until(lambda: registry.models["b"].state == "ready", "loaded")
        await run(registry, "b")


async def test_a_load_that_never_ends_holds_no_room_for_ever(llama_folder: Path, tmp_path: Path) -> None:
    specs = [spec(never_loading.write(tmp_path), "hung", queue_timeout=0.2), spec(llama_folder, "a")]
    async with running(tmp_path, *specs, limits=Limits(1, PLENTY)) as registry:
        hung = registry.models["hung"]
        asking = asyncio.create_task(run(registry, "hung"))
        await until(lambda: hung.worker_pid, "the worker")
        with pytest.raises(QueueTimeout):
            await asking
        assert hung.state == "loading"
        await run(registry, "a")
        assert hung.state == "unloaded"


class TestMemory:
    async def test_what_can_never_fit_is_told_at_once(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a"), limits=Limits(3, 2**20)) as registry:
            with pytest.raises(ModelLoadError, match=r"about 25\d\.\d MiB of memory, and the budget is 1\.0 MiB"):
                await run(registry, "a")
            assert registry.models["a"].state == "failed"

    async def test_models_that_stay_loaded_count(self, llama_folder: Path, tmp_path: Path) -> None:
        specs = [spec(llama_folder, "pinned", on_demand=False), spec(llama_folder, "a")]
        async with running(tmp_path, *specs, limits=Limits(3, 400 * 2**20)) as registry:
            assert await registry.wait_until_loaded()
            with pytest.raises(ModelLoadError, match=r"of which models that stay loaded take 25\d\.\d MiB"):
                await run(registry, "a")
            await run(registry, "pinned")

    async def test_an_idle_model_leaves_for_one_that_does_not_fit_beside_it(
        self, llama_folder: Path, tmp_path: Path
    ) -> None:
        specs = [spec(llama_folder, name) for name in "abc"]
        async with running(tmp_path, *specs, limits=Limits(3, 600 * 2**20)) as registry:
            a, b, c = registry.models.values()
            await run(registry, "a")
            await run(registry, "b")
            await run(registry, "a")
            await run(registry, "c")
            assert [model.state for model in (a, b, c)] == ["ready", "unloaded", "ready"]


class TestFailure:
    async def test_is_told_and_tried_again(self, llama_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        async with running(tmp_path, spec(folder, "a")) as registry:
            model = registry.models["a"]
            together = await asyncio.gather(run(registry, "a"), run(registry, "a"), return_exceptions=True)
            assert [type(error) for error in together] == [ModelLoadError] * 2
            assert model.state == "failed"
            with pytest.raises(ModelLoadError, match=r"config\.json") as caught:
                await run(registry, "a")
            assert caught.value.retry_after_s == 1.0
            shutil.copytree(llama_folder, folder, dirs_exist_ok=True)
            await asyncio.sleep(0.25)
            await run(registry, "a")
            assert (model.state, model.life.num_loads) == ("ready", 1)

    async def test_of_a_process_that_dies_while_it_loads(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a")) as registry:
            model = registry.models["a"]
            waiting = asyncio.create_task(run(registry, "a"))
            await until(lambda: model.worker_pid, "the worker")
            assert model.worker_pid is not None
            os.kill(model.worker_pid, signal.SIGKILL)
            with pytest.raises(ModelLoadError, match="SIGKILL"):
                await waiting
            await model.load()
            assert (model.state, model.num_restarts) == ("ready", 0)

    async def test_after_loading_is_mended_for_those_who_wait(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a", max_concurrency=1)) as registry:
            model = registry.models["a"]
            async with streaming(registry, "a"):
                waiting = asyncio.create_task(run(registry, "a"))
                await until(lambda: model.admission.num_waiting, "somebody waits")
                assert model.worker_pid is not None
                os.kill(model.worker_pid, signal.SIGKILL)
                await until(lambda: model.state == "restarting", "the death is seen")
            await waiting
            assert (model.num_restarts, model.life.num_loads) == (1, 2)


class TestByHand:
    async def test_a_model_is_loaded_and_unloaded(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a", on_demand=False)) as registry:
            model = registry.models["a"]
            await model.load()
            pid = model.worker_pid
            assert pid is not None
            await model.unload(10)
            assert (model.state, is_gone(pid)) == ("unloaded", True)
            await model.unload(0)
            await run(registry, "a")
            assert model.life.num_loads == 2

    async def test_one_that_nobody_uses_goes_at_once(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a")) as registry:
            model = registry.models["a"]
            await model.load()
            await model.unload(0)
            assert (model.state, model.life.num_unloads) == ("unloaded", 1)

    async def test_not_under_a_stream(self, llama_folder: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(llama_folder, "a")) as registry:
            model = registry.models["a"]
            async with streaming(registry, "a") as stream:
                with pytest.raises(Conflict, match="1 requests"):
                    await model.unload(0.05)
                assert model.state == "ready"
                await run(registry, "a")
                unloading = asyncio.create_task(model.unload(30))
                await until(lambda: model.state == "unloading", "unloading")
                late = asyncio.create_task(run(registry, "a"))
                assert isinstance(await read_to_end(stream), Finished)
            await unloading
            await late
            assert (model.life.num_loads, model.life.num_unloads) == (2, 1)

    async def test_loading_is_broken_off(self, tmp_path: Path) -> None:
        async with running(tmp_path, spec(never_loading.write(tmp_path), "a")) as registry:
            model = registry.models["a"]
            waiting = [asyncio.create_task(model.load()), asyncio.create_task(run(registry, "a"))]
            await until(lambda: model.worker_pid, "the worker")
            pid = model.worker_pid
            assert pid is not None
            await model.unload(10)
            for one in waiting:
                with pytest.raises(ModelUnavailable, match="broken off"):
                    await one
            await asyncio.sleep(0)
            assert (model.state, model.num_leases, is_gone(pid)) == ("unloaded", 0, True)

    async def test_what_changed_on_disk_is_seen_at_the_next_load(
        self, model_folder: FolderByName, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        shutil.copytree(model_folder("llama"), folder)
        async with running(tmp_path, spec(folder, "a")) as registry:
            model = registry.models["a"]
            await model.load()
            assert model.info is not None
            assert model.info.architecture == "llama"
            await model.unload(10)
            shutil.rmtree(folder)
            shutil.copytree(model_folder("qwen2"), folder)
            await run(registry, "a")
            assert model.info.architecture == "qwen2"
