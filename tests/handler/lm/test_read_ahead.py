"""What an earlier run left is in memory before it is asked for."""

import os
import time
from pathlib import Path

import mlx.core as mx
import pytest

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.prefixes.upkeep import CacheUpkeep
from tests.fixtures.prefix_caches import assert_resumes, new_cache, open_files, paths, restarted, store, tokens_of

PROMPTS = [tokens_of(seed, 40) for seed in range(4)]


def left(form: CacheForm, folder: Path, prompts: list[list[int]]) -> None:
    """The files of a run that had these prompts, the last most recently."""
    kept = new_cache(form, files=open_files(folder))
    for tokens in prompts:
        store(kept, form, tokens)
    kept.close()


def in_memory(kept: PrefixCache, prompts: list[list[int]]) -> list[bool]:
    """Of which prompts all is in memory; asks for them."""
    assert kept.files is not None
    found: list[bool] = []
    for tokens in prompts:
        before = kept.files.num_loads
        hit = kept.fetch("", [*tokens, 1])
        assert hit is not None
        assert hit.num_tokens == len(tokens)
        found.append(kept.files.num_loads == before)
    return found


def test_all_that_was_of_use_lately_is_read_while_there_is_nothing_to_do(any_form: CacheForm, tmp_path: Path) -> None:
    long = tokens_of(7, 600)
    left(any_form, tmp_path, [*PROMPTS, long, long[:300] + tokens_of(8, 30)])
    kept = new_cache(any_form, files=open_files(tmp_path))
    assert kept.files is not None
    upkeep = CacheUpkeep(kept)
    num_turns = 0
    while upkeep.rest(0.0) == 0.0:
        num_turns += 1
    # One at a time: a request that comes waits for no more.
    assert num_turns == kept.files.num_loads == len(paths(tmp_path))
    assert all(in_memory(kept, [*PROMPTS, long]))
    assert_resumes(any_form, kept, [*long, 7, 8], 600)
    assert_resumes(any_form, kept, [*PROMPTS[2], 7, 8], 40)
    kept = restarted(any_form, kept, tmp_path)
    assert_resumes(any_form, kept, [*long, 7, 8], 600)
    kept.close()


def test_what_was_of_use_long_ago_is_not(plain_form: CacheForm, tmp_path: Path) -> None:
    left(plain_form, tmp_path, PROMPTS[:1])
    yesterday = time.time() - 86_400
    for path in paths(tmp_path):
        os.utime(path, (yesterday, yesterday))
    kept = new_cache(plain_form, files=open_files(tmp_path))
    assert not kept.read_ahead()
    assert in_memory(kept, PROMPTS[:1]) == [False]
    kept.close()


def test_the_most_recent_come_first_and_the_rest_of_the_memory_is_left_free(
    plain_form: CacheForm, tmp_path: Path
) -> None:
    left(plain_form, tmp_path, PROMPTS)
    size = max(path.stat().st_size for path in paths(tmp_path))
    kept = new_cache(plain_form, 8 * size, files=open_files(tmp_path))
    while kept.read_ahead():
        pass
    assert 0 < kept.num_bytes <= 2 * size
    assert in_memory(kept, PROMPTS[::-1]) == [True, True, False, False]
    kept.close()


def test_no_more_sequences_are_read_than_there_may_be(plain_form: CacheForm, tmp_path: Path) -> None:
    left(plain_form, tmp_path, PROMPTS)
    kept = new_cache(plain_form, max_sequences=2, files=open_files(tmp_path))
    while kept.read_ahead():
        pass
    assert kept.num_sequences == 2
    assert kept.counts.evictions == 0
    kept.close()


def test_the_last_sequence_that_there_may_be_is_read_to_its_end(plain_form: CacheForm, tmp_path: Path) -> None:
    long = tokens_of(7, 600)
    left(plain_form, tmp_path, [PROMPTS[0], long])
    kept = new_cache(plain_form, max_sequences=1, files=open_files(tmp_path))
    while kept.read_ahead():
        pass
    assert kept.num_sequences == 1
    assert in_memory(kept, [long]) == [True]
    kept.close()


def test_memory_that_reading_has_freed_is_given_back(plain_form: CacheForm, tmp_path: Path) -> None:
    left(plain_form, tmp_path, PROMPTS)
    upkeep = CacheUpkeep(new_cache(plain_form, files=open_files(tmp_path)))
    while upkeep.rest(2.0) == 0.0:
        mx.eval(mx.zeros((1 << 20,)))
    assert mx.get_cache_memory() == 0
    upkeep.close()


def test_what_was_read_ahead_goes_first(plain_form: CacheForm, tmp_path: Path) -> None:
    left(plain_form, tmp_path, PROMPTS[:2])
    kept = new_cache(plain_form, files=open_files(tmp_path))
    store(kept, plain_form, PROMPTS[2])
    while kept.read_ahead():
        pass
    expected = [True, True, True]
    for place in range(2):
        kept.limits = PrefixCacheLimits(kept.num_bytes - 1)
        kept._shrink(set())
        expected[place] = False
        kept.limits = PrefixCacheLimits(1 << 30)
        assert [node_is_in_memory(kept, tokens) for tokens in PROMPTS[:3]] == expected
    kept.close()


def test_a_request_may_come_in_between(any_form: CacheForm, tmp_path: Path) -> None:
    long = tokens_of(7, 600)
    left(any_form, tmp_path, [long])
    kept = new_cache(any_form, files=open_files(tmp_path))
    assert kept.read_ahead()
    # Splits a node that is still to be read.
    store(kept, any_form, long[:300] + tokens_of(8, 30))
    while kept.read_ahead():
        pass
    assert_resumes(any_form, kept, [*long, 7, 8], 600)
    kept.clear()
    assert not kept.read_ahead()
    kept.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_file_that_cannot_be_read_is_dropped(plain_form: CacheForm, tmp_path: Path, damage: str) -> None:
    left(plain_form, tmp_path, PROMPTS[:2])
    kept = new_cache(plain_form, files=open_files(tmp_path))
    for path in paths(tmp_path):
        match damage:
            case "cut":
                path.write_bytes(path.read_bytes()[:-100])
            case "changed":
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            case _:
                path.unlink()
    while kept.read_ahead():
        pass
    assert kept.num_bytes == 0
    assert kept.fetch("", [*PROMPTS[0], 1]) is None
    kept.close()


def node_is_in_memory(kept: PrefixCache, tokens: list[int]) -> bool:
    (node,) = [one for one in kept._tree.nodes() if one.tokens == tokens]
    return node.segment is not None and node.segment.is_in_memory
