"""The files of the prefix cache: nothing on disk can do harm, and a disk that fails costs no request."""

import contextlib
import resource
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from loguru import logger

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_files import PrefixFiles
from app.handler.lm.prefixes.prefix_tree import entry_of
from tests.fixtures.prefix_caches import (
    FINGERPRINT,
    MANY_BYTES,
    assert_resumes,
    evict_all,
    fed,
    new_cache,
    open_files,
    paths,
    restarted,
    store,
    tokens_of,
    wait_for_disk,
)

SAME_START = tokens_of(1, 40)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="DEBUG")
    yield said
    logger.remove(sink)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "data", "header", "namespace", "gone", "folder"])
def test_a_broken_file_is_dropped_and_the_prompt_runs_afresh(
    plain_form: CacheForm, tmp_path: Path, damage: str, lines: list[str]
) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    store(kept, plain_form, SAME_START)
    store(kept, plain_form, SAME_START + tokens_of(2, 30))
    kept = restarted(plain_form, kept, tmp_path)
    assert kept.files is not None
    first = max(paths(tmp_path), key=lambda path: path.stat().st_size)
    for is_running in (True, False):
        ruin(first, damage)
        kept = kept if is_running else restarted(plain_form, kept, tmp_path)
        for namespace in ("", "x", ""):
            assert kept.fetch(namespace, [*SAME_START, *tokens_of(2, 30), 1]) is None
        wait_for_disk(kept)
        assert kept.files is not None
        # What came after it is of no use without it.
        assert kept.files.num_files == len(paths(tmp_path)) - (damage == "folder") == 0
        # A file that is gone before the start was never heard of.
        assert any(first.name in line for line in lines) or (damage == "gone" and not is_running)
        store(kept, plain_form, SAME_START + tokens_of(2, 30))
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(plain_form, kept, [*SAME_START, *tokens_of(2, 30), 1], 70)
        if damage == "folder":
            break
        first = paths(tmp_path)[0]
    kept.close()


def ruin(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("hello")
        case "data":
            data[-5] ^= 1
            path.write_bytes(data)
        case "header":
            data[30] ^= 255
            path.write_bytes(data)
        case "namespace":
            path.write_bytes(data.replace(b'"namespace": ""', b'"namespace":"x"'))
        case "gone":
            path.unlink()
        case _:
            path.unlink()
            path.mkdir()


def test_files_of_another_model_are_removed(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path, fingerprint="model-2"))
    store(kept, plain_form, SAME_START)
    kept.close()
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "1.tmp").write_text("half a file")
    files = open_files(tmp_path)
    kept = new_cache(plain_form, files=files)
    assert kept.fetch("", [*SAME_START, 1]) is None
    assert files.num_files == files.num_bytes == 0
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "notes.txt"}
    kept.close()


def test_a_node_without_those_before_it_is_removed(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    store(kept, plain_form, SAME_START)
    store(kept, plain_form, SAME_START + tokens_of(2, 30))
    kept.close()
    max(paths(tmp_path), key=lambda path: path.stat().st_size).unlink()
    kept = new_cache(plain_form, files=open_files(tmp_path))
    wait_for_disk(kept)
    assert paths(tmp_path) == []
    kept.close()


def test_files_are_safetensors_that_others_can_read_and_nobody_else_may(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path / "new" / "folder"))
    store(kept, plain_form, SAME_START)
    kept.close()
    (path,) = paths(tmp_path / "new" / "folder")
    arrays = mx.load(str(path))
    assert isinstance(arrays, dict)
    assert arrays["tokens"].tolist() == SAME_START
    assert arrays["0"].shape == (1, 2, 40, 16)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def file_bytes(plain_form: CacheForm, folder: Path, num_tokens: int) -> int:
    kept = new_cache(plain_form, files=open_files(folder))
    store(kept, plain_form, tokens_of(1, num_tokens))
    kept.close()
    return paths(folder)[0].stat().st_size


def test_the_least_recently_used_files_go_first(plain_form: CacheForm, tmp_path: Path) -> None:
    budget = int(3.5 * file_bytes(plain_form, tmp_path / "one", 100))
    files = open_files(tmp_path / "all", budget)
    kept = new_cache(plain_form, files=files)
    prompts = [tokens_of(seed, 100) for seed in range(20, 26)]
    for prompt in prompts[:3]:
        store(kept, plain_form, prompt)
    evict_all(kept)
    assert kept.fetch("", [*prompts[0], 1]) is not None
    for prompt in prompts[3:5]:
        store(kept, plain_form, prompt)
        evict_all(kept)
        assert files.num_bytes <= budget
    wait_for_disk(kept)
    assert sum(path.stat().st_size for path in paths(tmp_path / "all")) == files.num_bytes
    assert [kept.fetch("", [*prompt, 1]) is not None for prompt in prompts] == [True, False, False, True, True, False]
    # Across a restart the order is kept, and a smaller budget is kept to at once.
    assert kept.fetch("", [*prompts[3], 1]) is not None
    kept.close()
    kept = new_cache(plain_form, files=open_files(tmp_path / "all", budget // 3))
    wait_for_disk(kept)
    assert [kept.fetch("", [*prompt, 1]) is not None for prompt in prompts] == [False, False, False, True, False, False]
    kept.close()


def test_what_is_larger_than_the_budget_is_not_written(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path, 1000))
    store(kept, plain_form, SAME_START)
    evict_all(kept)
    assert kept.fetch("", [*SAME_START, 1]) is None
    kept.close()
    assert paths(tmp_path) == []


def test_a_folder_has_one_user(plain_form: CacheForm, tmp_path: Path, lines: list[str]) -> None:
    first = new_cache(plain_form, files=open_files(tmp_path))
    store(first, plain_form, SAME_START)
    assert PrefixFiles.open(tmp_path, FINGERPRINT, MANY_BYTES) is None
    assert any("another process" in line for line in lines)
    second = restarted(plain_form, first, tmp_path)
    assert_resumes(plain_form, second, [*SAME_START, 1], 40)
    second.close()


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "file").write_text("")
    assert PrefixFiles.open(tmp_path / "file" / "folder", FINGERPRINT, MANY_BYTES) is None
    assert len(lines) == 1


@contextlib.contextmanager
def longest_file(num_bytes: int) -> Generator[None]:
    """A disk that takes no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("is_full", [True, False])
def test_a_disk_that_fails_is_warned_of_once_and_left_alone(
    plain_form: CacheForm, tmp_path: Path, lines: list[str], is_full: bool
) -> None:
    folder = tmp_path / "cache"
    kept = new_cache(plain_form, files=open_files(folder))
    store(kept, plain_form, SAME_START)
    evict_all(kept)
    wait_for_disk(kept)
    if is_full:
        prompts = [SAME_START + tokens_of(seed, 60) for seed in range(2, 5)]
        with longest_file(4096):
            for prompt in prompts:
                store(kept, plain_form, prompt)
            evict_all(kept)
            wait_for_disk(kept)
        # What was written before is still good.
        assert_resumes(plain_form, kept, [*prompts[0], 1], 40)
        assert len(list(folder.iterdir())) == 2
    else:
        shutil.rmtree(folder)
        prompts = [tokens_of(seed, 60) for seed in range(2, 5)]
        for prompt in prompts:
            store(kept, plain_form, prompt)
        evict_all(kept)
        wait_for_disk(kept)
        assert kept.fetch("", [*prompts[0], 1]) is None
    assert len([line for line in lines if "any more" in line]) == 1
    store(kept, plain_form, prompts[0])
    assert_resumes(plain_form, kept, [*prompts[0], 1], len(prompts[0]))
    kept.close()


def test_a_fault_in_memory_costs_an_entry_and_no_request(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    store(kept, plain_form, SAME_START)
    store(kept, plain_form, SAME_START + tokens_of(2, 30))
    for node in kept._tree.nodes():
        spans = entry_of(node)
        assert spans.kept is not None
        spans.kept.spans = spans.kept.spans[len(node.tokens) % 3 :]
    assert kept.fetch("", [*SAME_START, *tokens_of(2, 30), 1]) is None
    assert (kept.num_bytes, kept.num_sequences) == (0, 0)
    kept.store("", SAME_START * 2, fed(plain_form, SAME_START).row(0))
    store(kept, plain_form, SAME_START)
    assert_resumes(plain_form, kept, [*SAME_START, 1], 40)
    kept.close()
