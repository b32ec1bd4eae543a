"""The cache of the rows that run together."""

import mlx.core as mx
import pytest

from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.caches import BatchCache


@pytest.mark.parametrize("num_steps", [3, 30])
@pytest.mark.parametrize("place", range(3))
def test_a_row_whose_neighbours_have_left_is_fed_as_if_it_had_always_been_alone(
    any_form: CacheForm, place: int, num_steps: int
) -> None:
    """Longer than any window, and several tokens at once, as a grammar or a draft model has them."""
    form = any_form
    lone = BatchCache(form.new())
    rows = [form.new() for _ in range(3)]
    lengths = (5, 28, 60)
    for cache, length in zip(rows, lengths, strict=True):
        BatchCache(cache).feed(form.model, [[20 + at % 90 for at in range(length)]])
    lone.feed(form.model, [[20 + at % 90 for at in range(lengths[place])]])
    together = BatchCache.of(rows)
    for token in range(30, 30 + num_steps):
        together.feed(form.model, [[token]] * 3)
        lone.feed(form.model, [[token]])
    together.filter([place])
    for tokens in ([7, 8, 9], [5], [4, 3]):
        logits = [cache.feed(form.model, [tokens]) for cache in (together, lone)]
        assert mx.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    # And it takes others in again.
    newcomer = form.new()
    BatchCache(newcomer).feed(form.model, [[6] * 40])
    together.extend(BatchCache(newcomer))
    both = together.feed(form.model, [[11], [12]])
    assert mx.allclose(both[:1], lone.feed(form.model, [[11]]), rtol=1e-3, atol=1e-3)
