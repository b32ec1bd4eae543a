from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models.cache import CacheList, KVCache

from app.handler.lm.context_cost import ContextCost, open_context_cost
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import Cache
from tests.fixtures.tiny_lm import Loaded, load_folder


def test_where_nothing_is_known_all_tokens_count_alike() -> None:
    cost = ContextCost()
    assert (cost.of(5000, 70), cost.affordable(5000, 70)) == (70, 70)


def test_a_token_that_sees_many_costs_more() -> None:
    cost = ContextCost(even_at=1000)
    assert cost.of(0, 1) == pytest.approx(1, rel=1e-2)
    assert cost.of(1000, 1) == pytest.approx(2, rel=1e-2)
    # All of a prompt costs the same, however it is cut.
    assert cost.of(0, 300) + cost.of(300, 500) == pytest.approx(cost.of(0, 800))


@pytest.mark.parametrize("num_seen", [0, 10, 900, 50_000])
@pytest.mark.parametrize("affordable", [16, 100, 2048])
def test_no_more_is_afforded_than_was_asked_for(num_seen: int, affordable: int) -> None:
    cost = ContextCost(even_at=700)
    num_tokens = cost.affordable(num_seen, affordable)
    assert 1 <= num_tokens <= affordable
    assert num_tokens == 1 or cost.of(num_seen, num_tokens) <= affordable
    assert cost.of(num_seen, num_tokens + 1) > affordable * 0.999


def test_it_is_reckoned_from_the_model(llama: Loaded, model_folder: Callable[[str], Path]) -> None:
    hidden, inner, layers, heads, head, key_heads = 64, 96, 4, 4, 16, 2
    weights = layers * (2 * hidden * heads * head + 2 * hidden * key_heads * head + 3 * hidden * inner)
    config = {"num_attention_heads": heads}
    cost = open_context_cost(CacheForm(llama.model), config)
    assert cost.even_at == pytest.approx(weights / (2 * layers * heads * head), rel=0.02)
    assert open_context_cost(CacheForm(llama.model), {}).even_at is None
    # Windows and states see less.
    for kind in ("gemma3", "lfm2"):
        assert open_context_cost(CacheForm(load_folder(model_folder(kind)).model), config).even_at is None


def test_caches_may_come_in_lists_and_some_may_stay_empty(llama: Loaded) -> None:
    class Listed(nn.Module):
        """As models that keep something else beside keys and values."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = llama.model

        @property
        def layers(self) -> Any:
            return self.inner.layers

        def make_cache(self) -> Cache:
            return [CacheList(KVCache(), KVCache()) for _ in self.layers]

        def __call__(self, inputs: mx.array, cache: Cache) -> mx.array:
            return self.inner(inputs, cache=[one[0] for one in cache])

    config = {"num_attention_heads": 4}
    plain = open_context_cost(CacheForm(llama.model), config)
    assert plain.even_at is not None
    assert open_context_cost(CacheForm(Listed()), config) == plain


def test_few_bits_change_nothing(form_by_name: Callable[[str], CacheForm]) -> None:
    config = {"num_attention_heads": 4}
    plain, few = (open_context_cost(form_by_name(name), config) for name in ("llama", "few bits"))
    assert few == plain
