"""Workers that hang, die or find their files gone, beside one that nothing happens to."""

import asyncio
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from loguru import logger

from app.core.events import Finished
from app.errors import InternalError, ModelLoadError, ModelUnavailable, OutOfMemory, ServerError
from tests.fixtures import tiny_lm
from tests.fixtures.faulty_models import Fault, inflict, write
from tests.fixtures.serving import read_to_end, run, running, spec, streaming, until

# Far longer than a turn of a tiny model, even on a machine that is busy.
HANG_S = 1.5


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    return write(tmp_path / "faulty")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    found: list[str] = []
    sink = logger.add(lambda line: found.append(line.strip()), format="{message}", level="INFO")
    yield found
    logger.remove(sink)


def is_gone(pid: int | None) -> bool:
    """Whether no process of this id is left, not even as a zombie."""
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def num_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGSTOP, "did not answer"), (signal.SIGKILL, "SIGKILL")])
async def test_a_worker_that_is_stopped_or_killed_under_load(
    llama_folder: Path, tmp_path: Path, lines: list[str], number: int, cause: str
) -> None:
    specs = [spec(llama_folder, name, on_demand=False, worker_hang_timeout=HANG_S) for name in ("hit", "other")]
    async with running(tmp_path, *specs) as registry:
        hit, other = registry.models.values()
        assert await registry.wait_until_loaded()
        pid, num_before = hit.worker_pid, num_files()
        assert pid is not None
        async with AsyncExitStack() as stack:
            victims = [await stack.enter_async_context(streaming(registry, "hit", 10_000)) for _ in range(3)]
            neighbour = await stack.enter_async_context(streaming(registry, "other"))
            os.kill(pid, number)
            for victim in victims:
                with pytest.raises(ModelUnavailable, match=cause):
                    await read_to_end(victim)
            assert isinstance(await read_to_end(neighbour), Finished)
            await run(registry, "other")
        await run(registry, "hit")
        assert (hit.num_restarts, other.num_restarts, other.admission.counts.failed) == (1, 0, 0)
        assert is_gone(pid)
        assert num_files() <= num_before
    assert any("it gave no stack" in line for line in lines) == (number == signal.SIGSTOP)


class TestHang:
    async def test_of_a_turn_shows_where_it_is_and_is_mended(
        self, faulty: Path, tmp_path: Path, lines: list[str]
    ) -> None:
        one = spec(faulty, "a", trust_remote_code=True, worker_hang_timeout=HANG_S)
        async with running(tmp_path, one) as registry:
            model = registry.models["a"]
            await model.load()
            pid, cause = model.worker_pid, inflict(faulty, "hang")
            with pytest.raises(ModelUnavailable, match=r"its main thread did not get on for 1\.5 s"):
                await run(registry, "a")
            cause.unlink()
            await run(registry, "a")
            assert (model.num_restarts, is_gone(pid)) == (1, True)
        (stacks,) = [line for line in lines if "the stacks of its threads:" in line]
        assert "own.py" in stacks
        assert stacks.count("(most recent call first)") >= 3

    async def test_is_not_seen_in_long_work_or_none(self, tmp_path: Path) -> None:
        folder = tiny_lm.llama(tmp_path / "model", context_length=2048)
        async with running(tmp_path, spec(folder, "a", worker_hang_timeout=1)) as registry:
            model = registry.models["a"]
            await model.load()
            await asyncio.sleep(1.7)
            # The answer takes longer than the limit, its steps do not.
            await run(registry, "a", 1500)
            assert (model.state, model.num_restarts, model.life.num_loads) == ("ready", 0, 1)

    async def test_is_not_looked_for_where_that_is_off(self, faulty: Path, tmp_path: Path) -> None:
        one = spec(faulty, "a", trust_remote_code=True, worker_hang_timeout="none")
        async with running(tmp_path, one) as registry:
            model = registry.models["a"]
            await model.load()
            cause = inflict(faulty, "hang")
            asking = asyncio.create_task(run(registry, "a"))
            await asyncio.sleep(1)
            assert not asking.done()
            cause.unlink()
            await asking
            assert model.num_restarts == 0


class TestCrashLoop:
    async def test_ends_as_failed_and_heals_by_itself(self, faulty: Path, tmp_path: Path, lines: list[str]) -> None:
        cause = inflict(faulty, "abort")
        async with running(tmp_path, spec(faulty, "a", trust_remote_code=True, on_demand=False)) as registry:
            model = registry.models["a"]
            waiting = asyncio.create_task(run(registry, "a"))
            assert not await registry.wait_until_loaded()
            with pytest.raises(ModelLoadError, match=r"SIGABRT.*failure 5 in a row"):
                await waiting
            assert (model.state, model.num_restarts) == ("failed", 4)
            with pytest.raises(ModelLoadError, match="SIGABRT") as refused:
                await run(registry, "a")
            assert (refused.value.retry_after_s or 0) > 1
            cause.unlink()
            await until(lambda: model.state == "ready", "nobody asks, and it is there again")
            await run(registry, "a")
        assert any("the next try is due in 3.2 s" in line for line in lines)

    async def test_of_a_model_that_was_loaded_is_ended_by_hand(self, faulty: Path, tmp_path: Path) -> None:
        async with running(tmp_path, spec(faulty, "a", trust_remote_code=True)) as registry:
            model = registry.models["a"]
            cause = None
            for _ in range(4):
                await model.load()
                cause = inflict(faulty, "die")
                with pytest.raises(ModelUnavailable, match="SIGABRT"):
                    await run(registry, "a")
                cause.unlink()
            await model.load()
            inflict(faulty, "die")
            with pytest.raises(ModelUnavailable, match="SIGABRT"):
                await run(registry, "a")
            await until(lambda: model.state == "failed", "it is left alone")
            assert "failure 5 in a row" in (model.reason or "")
            inflict(faulty, "die").unlink()
            await model.load()
            await run(registry, "a")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("quit", "it exited with status 1"),
        ("cut", "it exited with status 0"),
        ("babble", "it sent something unreadable"),
    ],
)
async def test_a_worker_that_breaks_off(
    faulty: Path, llama_folder: Path, tmp_path: Path, lines: list[str], fault: Fault, cause: str
) -> None:
    other = spec(llama_folder, "other")
    async with running(tmp_path, spec(faulty, "a", trust_remote_code=True), other) as registry:
        model = registry.models["a"]
        await asyncio.gather(model.load(), registry.models["other"].load())
        pid = model.worker_pid
        async with streaming(registry, "other") as neighbour:
            told = inflict(faulty, fault)
            with pytest.raises(ModelUnavailable, match=cause):
                await run(registry, "a")
            told.unlink()
            assert isinstance(await read_to_end(neighbour), Finished)
        await run(registry, "a")
        assert (model.num_restarts, is_gone(pid)) == (1, True)
    assert len([line for line in lines if re.fullmatch(r"a is ready again after \d+\.\d s", line)]) == 1


async def test_an_exception_while_it_loads(faulty: Path, tmp_path: Path, lines: list[str]) -> None:
    cause = inflict(faulty, "refuse")
    async with running(tmp_path, spec(faulty, "a", trust_remote_code=True)) as registry:
        with pytest.raises(ModelLoadError, match="told to"):
            await run(registry, "a")
        cause.unlink()
        await registry.models["a"].load()
        await run(registry, "a")
    assert not any("ready again" in line for line in lines), "it was not ready before"


async def test_why_a_load_failed_is_told_in_one_sentence(tmp_path: Path, lines: list[str]) -> None:
    async with running(tmp_path, spec(tmp_path / "gone", "a")) as registry:
        with pytest.raises(ModelLoadError, match="does not exist"):
            await run(registry, "a")
    assert any("or a hub id; the next try is due in 0.2 s" in line for line in lines)


@pytest.mark.skipif(sys.platform == "darwin", reason="limits of other processes can be set on Linux only")
async def test_memory_that_runs_out_under_load(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, *(spec(llama_folder, name) for name in ("hit", "other"))) as registry:
        hit, other = registry.models.values()
        await asyncio.gather(hit.load(), other.load())
        pid = hit.worker_pid
        assert pid is not None
        async with AsyncExitStack() as stack:
            neighbour = await stack.enter_async_context(streaming(registry, "other"))
            victims = [await stack.enter_async_context(streaming(registry, "hit", 10_000)) for _ in range(3)]
            resource.prlimit(pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
            for victim in victims:
                # Whatever wants memory first says so, or the process dies of it.
                with pytest.raises(ModelUnavailable, match=r"Memory ran out|ended unexpectedly"):
                    await read_to_end(victim)
            assert isinstance(await read_to_end(neighbour), Finished)
            await run(registry, "other")
        if not is_gone(pid):
            resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await run(registry, "hit")
        assert (other.num_restarts, other.admission.counts.failed) == (0, 0)


async def test_ten_deaths_leave_nothing_behind(llama_folder: Path, tmp_path: Path) -> None:
    async with running(tmp_path, spec(llama_folder, "a")) as registry:
        model = registry.models["a"]
        await run(registry, "a")
        await model.unload(10)
        num_before, tasks_before = num_files(), len(asyncio.all_tasks())
        pids: list[int] = []
        for number in range(10):
            loading = asyncio.create_task(model.load())
            if number < 3:
                await loading
            else:
                await until(lambda: model.worker_pid not in (None, *pids), "the next one is started")
                # Before it reads what it is to load, while it imports, and later.
                await asyncio.sleep(number / 20)
            pid = model.worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            if number >= 3:
                with pytest.raises(ModelLoadError, match="SIGKILL"):
                    await loading
            await until(lambda: model.worker_pid is None, "its death is noticed")
            assert is_gone(pid)
            pids.append(pid)
        assert len(set(pids)) == 10
        assert (num_files(), len(asyncio.all_tasks())) == (num_before, tasks_before)
        await model.load()
        await run(registry, "a")


@pytest.mark.parametrize(("fault", "told"), [("raise", InternalError), ("overreach", OutOfMemory)])
async def test_an_exception_in_a_forward_pass_ends_its_request_alone(
    faulty: Path, tmp_path: Path, fault: Fault, told: type[ServerError]
) -> None:
    async with running(tmp_path, spec(faulty, "a", trust_remote_code=True)) as registry:
        model = registry.models["a"]
        await model.load()
        cause = inflict(faulty, fault)
        with pytest.raises(told):
            await run(registry, "a")
        cause.unlink()
        await run(registry, "a")
        assert (model.state, model.num_restarts) == ("ready", 0)


async def test_memory_that_runs_out_while_it_loads(faulty: Path, tmp_path: Path) -> None:
    cause = inflict(faulty, "starve")
    async with running(tmp_path, spec(faulty, "a", trust_remote_code=True)) as registry:
        model = registry.models["a"]
        with pytest.raises(ModelLoadError, match="MemoryError"):
            await run(registry, "a")
        cause.unlink()
        await model.load()
        await run(registry, "a")


async def test_a_folder_that_is_gone_when_the_worker_dies(llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    async with running(tmp_path, spec(folder, "a", on_demand=False)) as registry:
        model = registry.models["a"]
        assert await registry.wait_until_loaded()
        shutil.rmtree(folder)
        # What is loaded needs its files no longer.
        await run(registry, "a")
        assert model.worker_pid is not None
        os.kill(model.worker_pid, signal.SIGKILL)
        await until(lambda: model.state == "failed", "it cannot be loaded")
        assert str(folder) in (model.reason or "")
        shutil.copytree(llama_folder, folder)
        await until(lambda: model.state == "ready", "nobody asks, and it is there again")
        await run(registry, "a")


async def test_a_download_that_broke_off(llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    async with running(tmp_path, spec(folder, "a")) as registry:
        with pytest.raises(ModelLoadError, match=rf"'{folder}' cannot be loaded: .*"):
            await run(registry, "a")
        weights.write_bytes(whole)
        await registry.models["a"].load()
        await run(registry, "a")
