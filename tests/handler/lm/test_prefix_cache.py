"""The prefix cache, driven with the caches of tiny real models."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from app.handler.lm.caches import BatchCache, Cache
from app.handler.lm.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.radix import Node, common_length, match
from tests.fixtures.tiny_lm import Loaded

MANY_BYTES = 1 << 30


def tokens_of(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(300), k=count)


def fed(loaded: Loaded, tokens: list[int]) -> BatchCache:
    cache = BatchCache.of([make_prompt_cache(loaded.model)])
    cache.feed(loaded.model, [tokens])
    return cache


def new_cache(
    loaded: Loaded, max_bytes: int = MANY_BYTES, *, max_sequences: int | None = None, ttl_s: float | None = None
) -> PrefixCache:
    return PrefixCache(make_prompt_cache(loaded.model), PrefixCacheLimits(max_bytes, max_sequences, ttl_s))


def store(kept: PrefixCache, loaded: Loaded, tokens: list[int], namespace: str = "") -> None:
    kept.store(namespace, tokens, fed(loaded, tokens).row(0))


def next_logits(loaded: Loaded, cache: Cache, tokens: list[int]) -> Any:
    return np.array(loaded.model(mx.array([tokens]), cache=cache)[0, -1])


def assert_resumes(loaded: Loaded, kept: PrefixCache, tokens: list[int], num_cached: int) -> None:
    """The hit has the expected length, and going on from it gives what starting afresh gives."""
    hit = kept.fetch("", tokens)
    assert hit is not None
    assert hit.num_tokens == num_cached
    resumed = next_logits(loaded, hit.cache, tokens[num_cached:])
    afresh = next_logits(loaded, make_prompt_cache(loaded.model), tokens)
    np.testing.assert_allclose(resumed, afresh, atol=2e-3)


def test_a_longer_prompt_resumes_where_a_kept_one_ends(batched: Loaded) -> None:
    kept = new_cache(batched)
    store(kept, batched, tokens_of(1, 60))
    for _ in range(2):  # what was fetched once is unharmed by its use
        assert_resumes(batched, kept, tokens_of(1, 60) + tokens_of(2, 9), 60)


def test_the_last_token_is_always_left_to_feed(llama: Loaded) -> None:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, 60))
    assert_resumes(llama, kept, tokens_of(1, 60), 59)


def test_a_diverging_prompt_resumes_at_the_common_part(llama: Loaded) -> None:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, 60))
    assert_resumes(llama, kept, [*tokens_of(1, 60)[:37], 299, 298, 297], 37)


@pytest.mark.parametrize("name", ["gemma3", "lfm2"])
def test_a_model_that_cannot_be_cut_resumes_at_its_checkpoint_only(name: str, model_folder: Any) -> None:
    from tests.fixtures.tiny_lm import load_folder

    loaded = load_folder(model_folder(name))
    kept = new_cache(loaded)
    assert kept.needs_checkpoints
    system, turn, other = tokens_of(1, 40), tokens_of(2, 30), tokens_of(3, 30)
    store(kept, loaded, system)
    store(kept, loaded, system + turn)
    assert_resumes(loaded, kept, system + turn + other, 70)
    # Within the second message there is no checkpoint: back to the end of the first.
    assert_resumes(loaded, kept, system + turn[:20] + other, 40)
    assert kept.fetch("", system[:30] + other) is None


def test_rows_of_a_batch_are_kept_apart(batched: Loaded) -> None:
    prompts = [tokens_of(seed, 30 + 7 * seed) for seed in range(4)]
    cache = BatchCache.of([make_prompt_cache(batched.model) for _ in prompts])
    cache.feed(batched.model, prompts)
    kept = new_cache(batched)
    for index, prompt in enumerate(prompts):
        kept.store("", prompt, cache.row(index))
    for prompt in prompts:
        assert_resumes(batched, kept, [*prompt, 5, 6], len(prompt))


def test_a_shared_prefix_is_kept_once(llama: Loaded) -> None:
    kept = new_cache(llama)
    shared = tokens_of(1, 200)
    store(kept, llama, shared + tokens_of(2, 20))
    one = kept.num_bytes
    for seed in range(3, 8):
        store(kept, llama, shared + tokens_of(seed, 20))
    assert kept.num_bytes == pytest.approx(one * (200 + 6 * 20) / 220)
    for seed in range(2, 8):
        assert_resumes(llama, kept, shared + tokens_of(seed, 20) + [1, 2], 220)


def test_namespaces_do_not_see_each_other(llama: Loaded) -> None:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, 60), namespace="a")
    assert kept.fetch("b", tokens_of(1, 60)) is None
    assert kept.fetch("a", tokens_of(1, 60)) is not None


def test_short_prompts_are_not_kept(llama: Loaded) -> None:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, 10))
    assert kept.num_sequences == 0


def entry_bytes(llama: Loaded, num_tokens: int) -> int:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, num_tokens))
    return kept.num_bytes


def test_the_least_recently_used_goes_first_and_hits_refresh(llama: Loaded) -> None:
    kept = new_cache(llama, max_bytes=int(2.5 * entry_bytes(llama, 100)))
    a, b, c = (tokens_of(seed, 100) for seed in (11, 12, 13))
    store(kept, llama, a)
    store(kept, llama, b)
    assert kept.fetch("", a) is not None
    store(kept, llama, c)
    assert kept.fetch("", b) is None
    assert kept.fetch("", a) is not None
    assert kept.fetch("", c) is not None
    assert kept.num_bytes <= kept.limits.max_bytes


def test_one_off_prompts_do_not_push_out_a_prefix_in_use(llama: Loaded) -> None:
    kept = new_cache(llama, max_bytes=4 * entry_bytes(llama, 100))
    agent = tokens_of(20, 200)
    store(kept, llama, agent)
    assert kept.fetch("", [*agent, 1]) is not None
    for seed in range(100, 160):
        store(kept, llama, tokens_of(seed, 40))
    assert_resumes(llama, kept, [*agent, 1], 200)
    assert kept.counts.evictions > 40


def test_an_entry_over_the_whole_budget_leaves_nothing_behind_but_itself(llama: Loaded) -> None:
    kept = new_cache(llama, max_bytes=entry_bytes(llama, 50))
    store(kept, llama, tokens_of(1, 40))
    store(kept, llama, tokens_of(2, 120))
    store(kept, llama, tokens_of(3, 40))
    assert kept.fetch("", tokens_of(3, 40)) is not None
    assert kept.num_bytes <= kept.limits.max_bytes


def test_idle_entries_expire(llama: Loaded) -> None:
    kept = new_cache(llama, ttl_s=0.0)
    store(kept, llama, tokens_of(1, 60))
    store(kept, llama, tokens_of(1, 60) + tokens_of(2, 30))
    for _ in range(2):  # a node goes when those that follow it are gone
        kept.expire()
    assert kept.num_bytes == 0
    assert kept.counts.expired == 2


def test_the_number_of_sequences_is_bounded(llama: Loaded) -> None:
    kept = new_cache(llama, max_sequences=3)
    shared = tokens_of(1, 60)
    for seed in range(2, 8):
        store(kept, llama, shared + tokens_of(seed, 20))
        assert kept.num_sequences <= 3
    assert_resumes(llama, kept, shared + tokens_of(7, 20) + [1], 80)


def test_clear_drops_everything(llama: Loaded) -> None:
    kept = new_cache(llama)
    store(kept, llama, tokens_of(1, 60))
    kept.clear()
    assert (kept.num_bytes, kept.num_sequences) == (0, 0)
    assert kept.fetch("", tokens_of(1, 60)) is None


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12), st.data())
@settings(deadline=None)
def test_matching_agrees_with_comparing_token_by_token(sequences: list[list[int]], data: st.DataObject) -> None:
    root: Node[Any] = Node([], None, None)
    for sequence in sequences:
        insert(root, sequence)
    query = data.draw(st.lists(st.integers(0, 2), max_size=14))
    found = match(root, query)
    longest = max(sum(1 for _ in common_start(query, sequence)) for sequence in sequences)
    assert found.num_tokens + found.num_partial == longest


def insert(root: Node[Any], sequence: list[int]) -> None:
    found = match(root, sequence)
    node = found.node
    if found.partial is not None and found.num_partial:
        rest, size = found.partial, found.num_partial
        node = Node(rest.tokens[:size], found.node, None)
        found.node.children[node.tokens[0]] = node
        rest.tokens, rest.parent = rest.tokens[size:], node
        node.children[rest.tokens[0]] = rest
    start = found.num_tokens + found.num_partial
    if start < len(sequence):
        node.children[sequence[start]] = Node(sequence[start:], node, None)


def common_start(a: list[int], b: list[int]) -> list[int]:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return a[:count]


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_length_agrees_with_counting(a: list[int], b: list[int]) -> None:
    assert common_length(a, b) == len(common_start(a, b))
