"""What moves between memory and disk: all that is evicted or left at the end comes back, in any order of events."""

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_cache import PrefixCache, PrefixCacheLimits
from tests.conftest import FolderByName
from tests.fixtures.prefix_caches import (
    assert_resumes,
    evict_all,
    new_cache,
    open_files,
    paths,
    restarted,
    store,
    tokens_of,
    wait_for_disk,
)
from tests.fixtures.tiny_lm import load_folder

SAME_START = tokens_of(1, 40)


def test_what_is_evicted_is_read_again_at_a_hit(any_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(any_form, files=open_files(tmp_path))
    first, second = SAME_START + tokens_of(2, 30), SAME_START + tokens_of(3, 700)
    store(kept, any_form, SAME_START)
    store(kept, any_form, first)
    store(kept, any_form, second[:500])
    for waits in (False, True):  # read from what is still being written, and from the disk
        evict_all(kept)
        assert kept.num_bytes == 0
        if waits:
            wait_for_disk(kept)
        assert_resumes(any_form, kept, [*second[:500], 7, 8], 500)
        assert_resumes(any_form, kept, [*first, 7, 8], 70)
    assert kept.files is not None
    assert kept.files.num_spills == kept.files.num_files == len(paths(tmp_path)) == 4
    kept.close()


def test_everything_survives_a_restart(any_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(any_form, files=open_files(tmp_path))
    store(kept, any_form, SAME_START)
    store(kept, any_form, SAME_START + tokens_of(2, 30), namespace="mine")
    store(kept, any_form, SAME_START + tokens_of(3, 30))
    for _ in range(2):
        kept = restarted(any_form, kept, tmp_path)
        assert kept.num_bytes == 0
        assert_resumes(any_form, kept, [*SAME_START, *tokens_of(3, 30), 7], 70)
        hit = kept.fetch("mine", [*SAME_START, *tokens_of(2, 30), 7])
        assert hit is not None
        assert hit.num_tokens == 70
        assert kept.fetch("other", SAME_START) is None
    kept.close()


def test_a_long_prompt_is_read_file_by_file(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    tokens = tokens_of(5, 1500)
    store(kept, plain_form, tokens)
    kept = restarted(plain_form, kept, tmp_path)
    num_loaded = 0
    while kept.load_some("", [*tokens, 1]):
        num_loaded += 1
    assert num_loaded == len(paths(tmp_path)) == 6
    assert_resumes(plain_form, kept, [*tokens, 1], 1500)
    assert kept.files is not None
    assert kept.files.num_loads == 6
    kept.close()


def test_what_goes_next_is_written_before_it_has_to_go(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    assert kept.files is not None
    store(kept, plain_form, tokens_of(5, 1000))
    kept.spill_ahead()
    assert kept.files.num_files == 0
    kept.limits = PrefixCacheLimits(kept.num_bytes)
    for num_written in (1, 2, 3, 4, 4):
        kept.spill_ahead()
        assert kept.files.num_files == num_written
    store(kept, plain_form, tokens_of(6, 1000))
    assert kept.files.num_files == 4
    assert_resumes(plain_form, kept, [*tokens_of(5, 1000), 1], 1000)
    kept.close()


def test_a_node_on_disk_is_split_where_another_prompt_leaves_it(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path))
    whole, other = tokens_of(1, 100), tokens_of(1, 100)[:37] + tokens_of(9, 30)
    store(kept, plain_form, whole)
    evict_all(kept)
    wait_for_disk(kept)
    store(kept, plain_form, other)
    for _ in range(2):
        assert_resumes(plain_form, kept, [*other, 1], 67)
        assert_resumes(plain_form, kept, [*whole, 1], 100)
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(plain_form, kept, [*whole[:50], 299, 298], 50)
        # The tail alone is in its file still: the whole node's, which its first part shares.
        assert len(paths(tmp_path)) == 2
        kept = restarted(plain_form, kept, tmp_path)
    kept.close()


def test_a_checkpoint_that_came_later_is_written_too(model_folder: FolderByName, tmp_path: Path) -> None:
    form = CacheForm(load_folder(model_folder("lfm2")).model)
    kept = new_cache(form, files=open_files(tmp_path))
    whole = tokens_of(1, 100)
    store(kept, form, whole)
    evict_all(kept)
    store(kept, form, whole[:37] + tokens_of(9, 30))
    store(kept, form, whole[:37])
    for _ in range(2):
        evict_all(kept)
        wait_for_disk(kept)
        assert_resumes(form, kept, [*whole[:37], 299, 298], 37)
        assert_resumes(form, kept, [*whole, 1], 100)
        kept = restarted(form, kept, tmp_path)
    kept.close()


def test_clearing_and_expiring_take_the_files_along(plain_form: CacheForm, tmp_path: Path) -> None:
    kept = new_cache(plain_form, files=open_files(tmp_path), ttl_s=0.0)
    for drop in (kept.clear, kept.expire):
        store(kept, plain_form, SAME_START)
        store(kept, plain_form, SAME_START + tokens_of(2, 30))
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
STEP = st.tuples(st.sampled_from(["store", "store", "store", "fetch", "evict", "restart", "ahead", "crash"]), PROMPT)


def test_any_order_of_events_keeps_what_was_stored(
    any_form: CacheForm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(st.lists(STEP, max_size=14))
    def check(steps: list[tuple[str, list[int]]]) -> None:
        folder = tmp_path_factory.mktemp("cache")
        kept = new_cache(any_form, files=open_files(folder))
        model: list[list[int]] = []
        for step, tokens in steps:
            match step:
                case "store":
                    store(kept, any_form, tokens)
                    model += [tokens] if len(tokens) >= 16 else []
                case "fetch":
                    assert_as_stored(any_form, kept, [*tokens, 5], model)
                case "evict":
                    evict_all(kept)
                case "restart":
                    kept = restarted(any_form, kept, folder)
                case "ahead":
                    kept.read_ahead()
                case _:
                    # A crash: what was written is there without an end in order.
                    evict_all(kept)
                    wait_for_disk(kept)
                    folder = Path(shutil.copytree(folder, tmp_path_factory.mktemp("crashed") / "cache"))
                    kept.close()
                    kept = new_cache(any_form, files=open_files(folder))
        for tokens in model:
            assert_as_stored(any_form, kept, [*tokens, 5], model)
        kept = restarted(any_form, kept, folder)
        for tokens in reversed(model):
            assert_as_stored(any_form, kept, [*tokens, 5], model)
        kept.close()
        assert kept.files is not None
        assert sum(path.stat().st_size for path in paths(folder)) == kept.files.num_bytes

    check()


def assert_as_stored(form: CacheForm, kept: PrefixCache, tokens: list[int], stored: list[list[int]]) -> None:
    """A hit is as long as it has to be by comparing with every stored sequence, and goes on as a fresh start does."""
    if kept.needs_checkpoints:
        expected = max((len(one) for one in stored if tokens[: len(one)] == one), default=0)
    else:
        expected = max((common(one, tokens) for one in stored), default=0)
    if expected < 16:
        assert kept.fetch("", tokens) is None
    else:
        assert_resumes(form, kept, tokens, expected)


def common(a: list[int], b: list[int]) -> int:
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_with_any_budget_a_hit_is_right(any_form: CacheForm, tmp_path: Path) -> None:
    draw = random.Random(11)
    files = open_files(tmp_path, 150_000)
    kept = new_cache(any_form, 60_000, files=files)
    for round_number in range(60):
        tokens = [bit for _ in range(draw.randint(2, 7)) for bit in [draw.randrange(2)] * 9]
        store(kept, any_form, tokens)
        hit = kept.fetch("", [*tokens, 5])
        if hit is not None:
            assert_resumes(any_form, kept, [*tokens, 5], hit.num_tokens)
        assert files.num_bytes <= 150_000
        if round_number % 20 == 19:
            kept.close()
            files = open_files(tmp_path, 150_000)
            kept = new_cache(any_form, 60_000, files=files)
    assert files.num_files > 0
    kept.close()
