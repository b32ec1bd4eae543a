"""The disk tier of the prefix cache: what is evicted or left at the end comes back, and nothing on disk can do harm."""

import contextlib
import random
import resource
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from mlx_lm.models.cache import make_prompt_cache

from app.handler.lm.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.prefix_files import PrefixFiles
from app.handler.lm.prefix_tree import entry_of
from tests.conftest import FolderByName
from tests.fixtures.tiny_lm import Loaded, load_folder
from tests.handler.lm.test_prefix_cache import MANY_BYTES, assert_resumes, fed, tokens_of

FINGERPRINT = "model-1"
SAME_START = tokens_of(1, 40)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="DEBUG")
    yield said
    logger.remove(sink)


def open_files(folder: Path, max_bytes: int = MANY_BYTES, fingerprint: str = FINGERPRINT) -> PrefixFiles:
    files = PrefixFiles.open(folder, fingerprint, max_bytes)
    assert files is not None
    return files


def new_cache(
    loaded: Loaded, files: PrefixFiles | None, max_bytes: int = MANY_BYTES, ttl_s: float | None = None
) -> PrefixCache:
    return PrefixCache(make_prompt_cache(loaded.model), PrefixCacheLimits(max_bytes, ttl_s=ttl_s), files)


def store(kept: PrefixCache, loaded: Loaded, tokens: list[int], namespace: str = "") -> None:
    kept.store(namespace, tokens, fed(loaded, tokens).row(0))


def restarted(loaded: Loaded, kept: PrefixCache, folder: Path, max_bytes: int = MANY_BYTES) -> PrefixCache:
    kept.close()
    return new_cache(loaded, open_files(folder), max_bytes)


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def evict_all(kept: PrefixCache) -> None:
    """Leave nothing in memory, as if much else had been stored since."""
    whole = kept.limits
    kept.limits = PrefixCacheLimits(1)
    kept._shrink(set())
    kept.limits = whole


def wait_for_disk(kept: PrefixCache) -> None:
    assert kept.files is not None
    kept.files.flush()
    kept.collect()


def test_what_is_evicted_is_read_again_at_a_hit(batched: Loaded, tmp_path: Path) -> None:
    kept = new_cache(batched, open_files(tmp_path))
    first, second = SAME_START + tokens_of(2, 30), SAME_START + tokens_of(3, 700)
    store(kept, batched, SAME_START)
    store(kept, batched, first)
    store(kept, batched, second[:500])
    for waits in (False, True):  # read from what is still being written, and from the disk
        evict_all(kept)
        assert kept.num_bytes == 0
        if waits:
            wait_for_disk(kept)
        assert_resumes(batched, kept, [*second[:500], 7, 8], 500)
        assert_resumes(batched, kept, [*first, 7, 8], 70)
    assert kept.files is not None
    assert kept.files.num_spills == kept.files.num_files == len(paths(tmp_path)) == 4
    kept.close()


def test_everything_survives_a_restart(batched: Loaded, tmp_path: Path) -> None:
    kept = new_cache(batched, open_files(tmp_path))
    store(kept, batched, SAME_START)
    store(kept, batched, SAME_START + tokens_of(2, 30), namespace="mine")
    store(kept, batched, SAME_START + tokens_of(3, 30))
    for _ in range(2):
        kept = restarted(batched, kept, tmp_path)
        assert kept.num_bytes == 0
        assert_resumes(batched, kept, [*SAME_START, *tokens_of(3, 30), 7], 70)
        hit = kept.fetch("mine", [*SAME_START, *tokens_of(2, 30), 7])
        assert hit is not None
        assert hit.num_tokens == 70
        assert kept.fetch("other", SAME_START) is None
    kept.close()


def test_a_long_prompt_is_read_file_by_file(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    tokens = tokens_of(5, 1500)
    store(kept, llama, tokens)
    kept = restarted(llama, kept, tmp_path)
    num_loaded = 0
    while kept.load_some("", [*tokens, 1]):
        num_loaded += 1
    assert num_loaded == len(paths(tmp_path)) == 6
    assert_resumes(llama, kept, [*tokens, 1], 1500)
    assert kept.files is not None
    assert kept.files.num_loads == 6
    kept.close()


def test_what_goes_next_is_written_before_it_has_to_go(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    assert kept.files is not None
    store(kept, llama, tokens_of(5, 1000))
    kept.spill_ahead()
    assert kept.files.num_files == 0
    kept.limits = PrefixCacheLimits(kept.num_bytes)
    for num_written in (1, 2, 3, 4, 4):
        kept.spill_ahead()
        assert kept.files.num_files == num_written
    store(kept, llama, tokens_of(6, 1000))
    assert kept.files.num_files == 4
    assert_resumes(llama, kept, [*tokens_of(5, 1000), 1], 1000)
    kept.close()


def test_a_node_on_disk_is_split_where_another_prompt_leaves_it(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    whole, other = tokens_of(1, 100), tokens_of(1, 100)[:37] + tokens_of(9, 30)
    store(kept, llama, whole)
    evict_all(kept)
    wait_for_disk(kept)
    store(kept, llama, other)
    for _ in range(2):
        assert_resumes(llama, kept, [*other, 1], 67)
        assert_resumes(llama, kept, [*whole, 1], 100)
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(llama, kept, [*whole[:50], 299, 298], 50)
        # The tail alone is in its file still: the whole node's, which its first part shares.
        assert len(paths(tmp_path)) == 2
        kept = restarted(llama, kept, tmp_path)
    kept.close()


def test_a_checkpoint_that_came_later_is_written_too(model_folder: FolderByName, tmp_path: Path) -> None:
    loaded = load_folder(model_folder("lfm2"))
    kept = new_cache(loaded, open_files(tmp_path))
    whole = tokens_of(1, 100)
    store(kept, loaded, whole)
    evict_all(kept)
    store(kept, loaded, whole[:37] + tokens_of(9, 30))
    store(kept, loaded, whole[:37])
    for _ in range(2):
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(loaded, kept, [*whole[:37], 299, 298], 37)
        assert_resumes(loaded, kept, [*whole, 1], 100)
        kept = restarted(loaded, kept, tmp_path)
    kept.close()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "data", "header", "namespace", "gone", "folder"])
def test_a_broken_file_is_dropped_and_the_prompt_runs_afresh(
    llama: Loaded, tmp_path: Path, damage: str, lines: list[str]
) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    store(kept, llama, SAME_START)
    store(kept, llama, SAME_START + tokens_of(2, 30))
    kept = restarted(llama, kept, tmp_path)
    assert kept.files is not None
    first = max(paths(tmp_path), key=lambda path: path.stat().st_size)
    for is_running in (True, False):
        ruin(first, damage)
        kept = kept if is_running else restarted(llama, kept, tmp_path)
        for namespace in ("", "x", ""):
            assert kept.fetch(namespace, [*SAME_START, *tokens_of(2, 30), 1]) is None
        wait_for_disk(kept)
        assert kept.files is not None
        # What came after it is of no use without it.
        assert kept.files.num_files == len(paths(tmp_path)) - (damage == "folder") == 0
        # A file that is gone before the start was never heard of.
        assert any(first.name in line for line in lines) or (damage == "gone" and not is_running)
        store(kept, llama, SAME_START + tokens_of(2, 30))
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(llama, kept, [*SAME_START, *tokens_of(2, 30), 1], 70)
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


def test_files_of_another_model_are_removed(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path, fingerprint="model-2"))
    store(kept, llama, SAME_START)
    kept.close()
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / "1.tmp").write_text("half a file")
    files = open_files(tmp_path)
    kept = new_cache(llama, files)
    assert kept.fetch("", [*SAME_START, 1]) is None
    assert files.num_files == files.num_bytes == 0
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "notes.txt"}
    kept.close()


def test_a_node_without_those_before_it_is_removed(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    store(kept, llama, SAME_START)
    store(kept, llama, SAME_START + tokens_of(2, 30))
    kept.close()
    max(paths(tmp_path), key=lambda path: path.stat().st_size).unlink()
    kept = new_cache(llama, open_files(tmp_path))
    wait_for_disk(kept)
    assert paths(tmp_path) == []
    kept.close()


def test_files_are_safetensors_that_others_can_read_and_nobody_else_may(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path / "new" / "folder"))
    store(kept, llama, SAME_START)
    kept.close()
    (path,) = paths(tmp_path / "new" / "folder")
    arrays = mx.load(str(path))
    assert isinstance(arrays, dict)
    assert arrays["tokens"].tolist() == SAME_START
    assert arrays["0"].shape == (1, 2, 40, 16)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def file_bytes(llama: Loaded, folder: Path, num_tokens: int) -> int:
    kept = new_cache(llama, open_files(folder))
    store(kept, llama, tokens_of(1, num_tokens))
    kept.close()
    return paths(folder)[0].stat().st_size


def test_the_least_recently_used_files_go_first(llama: Loaded, tmp_path: Path) -> None:
    budget = int(3.5 * file_bytes(llama, tmp_path / "one", 100))
    files = open_files(tmp_path / "all", budget)
    kept = new_cache(llama, files)
    prompts = [tokens_of(seed, 100) for seed in range(20, 26)]
    for prompt in prompts[:3]:
        store(kept, llama, prompt)
    evict_all(kept)
    assert kept.fetch("", [*prompts[0], 1]) is not None
    for prompt in prompts[3:5]:
        store(kept, llama, prompt)
        evict_all(kept)
        assert files.num_bytes <= budget
    wait_for_disk(kept)
    assert sum(path.stat().st_size for path in paths(tmp_path / "all")) == files.num_bytes
    assert [kept.fetch("", [*prompt, 1]) is not None for prompt in prompts] == [True, False, False, True, True, False]
    # Across a restart the order is kept, and a smaller budget is kept to at once.
    assert kept.fetch("", [*prompts[3], 1]) is not None
    kept.close()
    kept = new_cache(llama, open_files(tmp_path / "all", budget // 3))
    wait_for_disk(kept)
    assert [kept.fetch("", [*prompt, 1]) is not None for prompt in prompts] == [False, False, False, True, False, False]
    kept.close()


def test_what_is_larger_than_the_budget_is_not_written(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path, 1000))
    store(kept, llama, SAME_START)
    evict_all(kept)
    assert kept.fetch("", [*SAME_START, 1]) is None
    kept.close()
    assert paths(tmp_path) == []


def test_a_folder_has_one_user(llama: Loaded, tmp_path: Path, lines: list[str]) -> None:
    first = new_cache(llama, open_files(tmp_path))
    store(first, llama, SAME_START)
    assert PrefixFiles.open(tmp_path, FINGERPRINT, MANY_BYTES) is None
    assert any("another process" in line for line in lines)
    second = restarted(llama, first, tmp_path)
    assert_resumes(llama, second, [*SAME_START, 1], 40)
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
    llama: Loaded, tmp_path: Path, lines: list[str], is_full: bool
) -> None:
    folder = tmp_path / "cache"
    kept = new_cache(llama, open_files(folder))
    store(kept, llama, SAME_START)
    evict_all(kept)
    wait_for_disk(kept)
    if is_full:
        prompts = [SAME_START + tokens_of(seed, 60) for seed in range(2, 5)]
        with longest_file(4096):
            for prompt in prompts:
                store(kept, llama, prompt)
            evict_all(kept)
            wait_for_disk(kept)
        # What was written before is still good.
        assert_resumes(llama, kept, [*prompts[0], 1], 40)
        assert len(list(folder.iterdir())) == 2
    else:
        shutil.rmtree(folder)
        prompts = [tokens_of(seed, 60) for seed in range(2, 5)]
        for prompt in prompts:
            store(kept, llama, prompt)
        evict_all(kept)
        wait_for_disk(kept)
        assert kept.fetch("", [*prompts[0], 1]) is None
    assert len([line for line in lines if "any more" in line]) == 1
    store(kept, llama, prompts[0])
    assert_resumes(llama, kept, [*prompts[0], 1], len(prompts[0]))
    kept.close()


def test_a_fault_in_memory_costs_an_entry_and_no_request(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path))
    store(kept, llama, SAME_START)
    store(kept, llama, SAME_START + tokens_of(2, 30))
    for node in kept._tree.nodes():
        spans = entry_of(node)
        assert spans.kept is not None
        spans.kept.spans = spans.kept.spans[len(node.tokens) % 3 :]
    assert kept.fetch("", [*SAME_START, *tokens_of(2, 30), 1]) is None
    assert (kept.num_bytes, kept.num_sequences) == (0, 0)
    kept.store("", SAME_START * 2, fed(llama, SAME_START).row(0))
    store(kept, llama, SAME_START)
    assert_resumes(llama, kept, [*SAME_START, 1], 40)
    kept.close()


def test_clearing_and_expiring_take_the_files_along(llama: Loaded, tmp_path: Path) -> None:
    kept = new_cache(llama, open_files(tmp_path), ttl_s=0.0)
    for drop in (kept.clear, kept.expire):
        store(kept, llama, SAME_START)
        store(kept, llama, SAME_START + tokens_of(2, 30))
        evict_all(kept)
        drop()
        wait_for_disk(kept)
        assert paths(tmp_path) == []
        assert kept.files is not None
        assert (kept.files.num_files, kept.files.num_bytes, kept.num_bytes) == (0, 0, 0)
    assert kept.counts.expired == 2
    kept.close()


# Few tokens, so that prompts share their beginnings and leave each other anywhere.
PROMPT = st.lists(st.integers(0, 1), min_size=1, max_size=6).map(lambda bits: [bit for bit in bits for _ in range(9)])
STEP = st.tuples(st.sampled_from(["store", "store", "store", "fetch", "evict", "restart", "crash"]), PROMPT)


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2"])
def test_any_order_of_events_keeps_what_was_stored(
    name: str, model_folder: FolderByName, tmp_path_factory: pytest.TempPathFactory
) -> None:
    loaded = load_folder(model_folder(name))

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(st.lists(STEP, max_size=14))
    def check(steps: list[tuple[str, list[int]]]) -> None:
        folder = tmp_path_factory.mktemp("cache")
        kept = new_cache(loaded, open_files(folder))
        model: list[list[int]] = []
        for step, tokens in steps:
            match step:
                case "store":
                    store(kept, loaded, tokens)
                    model += [tokens] if len(tokens) >= 16 else []
                case "fetch":
                    assert_as_stored(loaded, kept, [*tokens, 5], model)
                case "evict":
                    evict_all(kept)
                case "restart":
                    kept = restarted(loaded, kept, folder)
                case _:
                    # A crash: what was written is there without an end in order.
                    evict_all(kept)
                    wait_for_disk(kept)
                    folder = Path(shutil.copytree(folder, tmp_path_factory.mktemp("crashed") / "cache"))
                    kept.close()
                    kept = new_cache(loaded, open_files(folder))
        for tokens in model:
            assert_as_stored(loaded, kept, [*tokens, 5], model)
        kept = restarted(loaded, kept, folder)
        for tokens in reversed(model):
            assert_as_stored(loaded, kept, [*tokens, 5], model)
        kept.close()
        assert kept.files is not None
        assert sum(path.stat().st_size for path in paths(folder)) == kept.files.num_bytes

    check()


def assert_as_stored(loaded: Loaded, kept: PrefixCache, tokens: list[int], stored: list[list[int]]) -> None:
    """A hit is as long as it has to be by comparing with every stored sequence, and goes on as a fresh start does."""
    if kept.needs_checkpoints:
        expected = max((len(one) for one in stored if tokens[: len(one)] == one), default=0)
    else:
        expected = max((common(one, tokens) for one in stored), default=0)
    if expected < 16:
        assert kept.fetch("", tokens) is None
    else:
        assert_resumes(loaded, kept, tokens, expected)


def common(a: list[int], b: list[int]) -> int:
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_with_any_budget_a_hit_is_right(batched: Loaded, tmp_path: Path) -> None:
    draw = random.Random(11)
    files = open_files(tmp_path, 150_000)
    kept = new_cache(batched, files, 60_000)
    for round_number in range(60):
        tokens = [bit for _ in range(draw.randint(2, 7)) for bit in [draw.randrange(2)] * 9]
        store(kept, batched, tokens)
        hit = kept.fetch("", [*tokens, 5])
        if hit is not None:
            assert_resumes(batched, kept, [*tokens, 5], hit.num_tokens)
        assert files.num_bytes <= 150_000
        if round_number % 20 == 19:
            kept.close()
            files = open_files(tmp_path, 150_000)
            kept = new_cache(batched, files, 60_000)
    assert files.num_files > 0
    kept.close()
