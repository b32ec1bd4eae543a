"""The prefix cache, driven with the caches of tiny real models."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache
from app.handler.lm.prefixes.radix import Node, common_length, match
from tests.fixtures.prefix_caches import assert_resumes, new_cache, store, tokens_of


def test_a_longer_prompt_resumes_where_a_kept_one_ends(any_form: CacheForm) -> None:
    kept = new_cache(any_form)
    store(kept, any_form, tokens_of(1, 60))
    for _ in range(2):  # what was fetched once is unharmed by its use
        assert_resumes(any_form, kept, tokens_of(1, 60) + tokens_of(2, 9), 60)


def test_the_last_token_is_always_left_to_feed(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, 60))
    assert_resumes(plain_form, kept, tokens_of(1, 60), 59)


def test_a_diverging_prompt_resumes_at_the_common_part(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, 60))
    assert_resumes(plain_form, kept, [*tokens_of(1, 60)[:37], 299, 298, 297], 37)


@pytest.mark.parametrize("name", ["gemma3", "lfm2"])
def test_a_model_that_cannot_be_cut_resumes_at_its_checkpoint_only(name: str, model_folder: Any) -> None:
    from tests.fixtures.tiny_lm import load_folder

    form = CacheForm(load_folder(model_folder(name)).model)
    kept = new_cache(form)
    assert kept.needs_checkpoints
    system, turn, other = tokens_of(1, 40), tokens_of(2, 30), tokens_of(3, 30)
    store(kept, form, system)
    store(kept, form, system + turn)
    assert_resumes(form, kept, system + turn + other, 70)
    # Within the second message there is no checkpoint: back to the end of the first.
    assert_resumes(form, kept, system + turn[:20] + other, 40)
    assert kept.fetch("", system[:30] + other) is None


def test_rows_of_a_batch_are_kept_apart(any_form: CacheForm) -> None:
    prompts = [tokens_of(seed, 30 + 7 * seed) for seed in range(4)]
    cache = BatchCache.of([any_form.new() for _ in prompts])
    cache.feed(any_form.model, prompts)
    kept = new_cache(any_form)
    for index, prompt in enumerate(prompts):
        kept.store("", prompt, cache.row(index))
    for prompt in prompts:
        assert_resumes(any_form, kept, [*prompt, 5, 6], len(prompt))


def test_a_shared_prefix_is_kept_once(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    shared = tokens_of(1, 200)
    store(kept, plain_form, shared + tokens_of(2, 20))
    one = kept.num_bytes
    for seed in range(3, 8):
        store(kept, plain_form, shared + tokens_of(seed, 20))
    assert kept.num_bytes == pytest.approx(one * (200 + 6 * 20) / 220)
    for seed in range(2, 8):
        assert_resumes(plain_form, kept, shared + tokens_of(seed, 20) + [1, 2], 220)


def test_namespaces_do_not_see_each_other(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, 60), namespace="a")
    assert kept.fetch("b", tokens_of(1, 60)) is None
    assert kept.fetch("a", tokens_of(1, 60)) is not None


def test_short_prompts_are_not_kept(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, 10))
    assert kept.num_sequences == 0


def entry_bytes(plain_form: CacheForm, num_tokens: int) -> int:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, num_tokens))
    return kept.num_bytes


def test_the_least_recently_used_goes_first_and_hits_refresh(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form, max_bytes=int(2.5 * entry_bytes(plain_form, 100)))
    a, b, c = (tokens_of(seed, 100) for seed in (11, 12, 13))
    store(kept, plain_form, a)
    store(kept, plain_form, b)
    assert kept.fetch("", a) is not None
    store(kept, plain_form, c)
    assert kept.fetch("", b) is None
    assert kept.fetch("", a) is not None
    assert kept.fetch("", c) is not None
    assert kept.num_bytes <= kept.limits.max_bytes


def test_one_off_prompts_do_not_push_out_a_prefix_in_use(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form, max_bytes=4 * entry_bytes(plain_form, 100))
    agent = tokens_of(20, 200)
    store(kept, plain_form, agent)
    assert kept.fetch("", [*agent, 1]) is not None
    for seed in range(100, 160):
        store(kept, plain_form, tokens_of(seed, 40))
    assert_resumes(plain_form, kept, [*agent, 1], 200)
    assert kept.counts.evictions > 40


def test_an_entry_over_the_whole_budget_leaves_nothing_behind_but_itself(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form, max_bytes=entry_bytes(plain_form, 50))
    store(kept, plain_form, tokens_of(1, 40))
    store(kept, plain_form, tokens_of(2, 120))
    store(kept, plain_form, tokens_of(3, 40))
    assert kept.fetch("", tokens_of(3, 40)) is not None
    assert kept.num_bytes <= kept.limits.max_bytes


def test_idle_entries_expire(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form, ttl_s=0.0)
    store(kept, plain_form, tokens_of(1, 60))
    store(kept, plain_form, tokens_of(1, 60) + tokens_of(2, 30))
    for _ in range(2):  # a node goes when those that follow it are gone
        kept.expire()
    assert kept.num_bytes == 0
    assert kept.counts.expired == 2


def test_the_number_of_sequences_is_bounded(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form, max_sequences=3)
    shared = tokens_of(1, 60)
    for seed in range(2, 8):
        store(kept, plain_form, shared + tokens_of(seed, 20))
        assert kept.num_sequences <= 3
    assert_resumes(plain_form, kept, shared + tokens_of(7, 20) + [1], 80)


def test_clear_drops_everything(plain_form: CacheForm) -> None:
    kept = new_cache(plain_form)
    store(kept, plain_form, tokens_of(1, 60))
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
