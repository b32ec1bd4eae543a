"""An engine whose caches are in few bits or have a window: one batch, one prefix cache, the texts of each row alone."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from app.handler.lm.drafting import Drafter
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.kv.kv_budget import KvBudget
from app.handler.lm.kv.quantized_cache import Quantization
from app.handler.lm.prefixes.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.prefixes.prefix_files import PrefixFiles
from app.handler.lm.prefixes.prefix_folder import fingerprint
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.sampling import SamplingParameters
from tests.fixtures.engine_bench import GREEDY, Bench, bench, prompts
from tests.fixtures.prefix_caches import fed, tokens_of
from tests.fixtures.tiny_lm import Loaded

WINDOW = 32


@pytest.fixture(params=["llama", "gemma3", "lfm2", "window"])
def form(request: pytest.FixtureRequest, wide_by_name: dict[str, Loaded]) -> CacheForm:
    """Eight bits in a model of each kind of cache, and a window."""
    if request.param == "window":
        return CacheForm(wide_by_name["llama"].model, window=WINDOW)
    return CacheForm(wide_by_name[request.param].model, Quantization(8, 32))


@pytest.fixture
def loaded(form: CacheForm, wide_by_name: dict[str, Loaded]) -> Loaded:
    return next(one for one in wide_by_name.values() if one.model is form.model)


def answers(test: Bench, asked: list[PreparedGeneration], *, is_together: bool) -> list[str]:
    for request_id, one in enumerate(asked):
        test.add_asking(request_id, one)
        if not is_together:
            test.run()
    test.run()
    return [test.log.completion(request_id).text for request_id in range(len(asked))]


def mixed(count: int) -> list[PreparedGeneration]:
    """Greedy and seeded, of many lengths, some with a beginning in common."""
    draw = random.Random(4)
    shared = tokens_of(99, 50)
    asked: list[PreparedGeneration] = []
    for number, prompt in enumerate(prompts(count)):
        sampling = SamplingParameters(temperature=1.0, seed=number) if number % 3 == 0 else GREEDY
        tokens = shared + prompt if number % 4 == 1 else prompt
        asked.append(PreparedGeneration(tokens, draw.randint(5, 50), sampling))
    return asked


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_rows_text_is_the_same_alone_and_in_the_batch(form: CacheForm, loaded: Loaded, cache_bytes: int) -> None:
    asked = mixed(12)
    alone = answers(bench(loaded, form=form, cache_bytes=0), asked, is_together=False)
    together = bench(loaded, form=form, cache_bytes=cache_bytes)
    assert answers(together, asked, is_together=True) == alone


def test_eight_bits_say_what_full_precision_says_for_a_while(wide_llama: Loaded) -> None:
    """Random weights leave the likeliest token little lead; most beginnings are the same all the same."""
    asked = [PreparedGeneration(tokens_of(seed, 60), 6, GREEDY) for seed in range(20)]
    plain, rounded = (
        answers(bench(wide_llama, form=form), asked, is_together=True)
        for form in (CacheForm(wide_llama.model), CacheForm(wide_llama.model, Quantization(8, 32)))
    )
    assert sum(one == other for one, other in zip(plain, rounded, strict=True)) >= 12


def test_a_conversation_goes_on_from_what_is_kept(form: CacheForm, loaded: Loaded) -> None:
    first = tokens_of(1, 100)
    asked = PreparedGeneration(first, 12, GREEDY)
    test = bench(loaded, form=form)
    test.add_asking(0, asked)
    test.run()
    generated = first + answer_tokens(form, loaded, asked)
    second = replace(asked, prompt=generated + tokens_of(2, 20))
    test.add_asking(1, second)
    test.run()
    assert test.log.completion(1).usage.cached_tokens == 112
    (afresh,) = answers(bench(loaded, form=form, cache_bytes=0), [second], is_together=False)
    assert test.log.completion(1).text == afresh


def answer_tokens(form: CacheForm, loaded: Loaded, asked: PreparedGeneration) -> list[int]:
    test = bench(loaded, form=form, cache_bytes=0)
    test.add_asking(0, asked)
    generated: list[int] = []
    while test.engine.turn():
        generated = next((row.generated for row in test.engine._rows.values()), generated)
    return generated


def test_what_is_kept_is_as_small_as_what_runs(wide_llama: Loaded) -> None:
    tokens = tokens_of(1, 1000)
    per_token: dict[int, float] = {}
    for bits in (4, 8, 32):
        form = CacheForm(wide_llama.model, Quantization(bits, 32) if bits < 32 else None)
        kept = PrefixCache(form.new(), PrefixCacheLimits(1 << 30))
        kept.store("", tokens, fed(form, tokens).row(0))
        per_token[bits] = kept.num_bytes / len(tokens)
        assert KvBudget.of(form, 10**6).token_bytes == per_token[bits]
    layers, heads, dims, group, scale_and_bias = 4, 2, 32, 32, 8
    numbers = 2 * layers * heads * dims
    assert per_token == {
        4: numbers * (4 / 8 + scale_and_bias / group),
        8: numbers * (8 / 8 + scale_and_bias / group),
        32: numbers * 4,
    }


def test_what_is_kept_survives_a_restart_and_another_form_does_not_read_it(
    form: CacheForm, loaded: Loaded, tmp_path: Path
) -> None:
    tokens = tokens_of(1, 300)
    other = replace(form, window=WINDOW + 1) if form.window else replace(form, quantization=Quantization(4, 32))
    for number, (used, expected) in enumerate([(form, None), (form, 300), (other, None)]):
        version = fingerprint(loaded.folder, used)
        files = PrefixFiles.open(tmp_path, version, 1 << 30)
        kept = PrefixCache(used.new(), PrefixCacheLimits(1 << 30), files)
        test = bench(loaded, form=used, prefixes=kept)
        asked = PreparedGeneration([*tokens, 1, 2, 3], 8, GREEDY)
        hit = kept.fetch("", asked.prompt)
        assert (hit.num_tokens if hit is not None else None) == expected
        (text,) = answers(test, [asked], is_together=False)
        assert test.log.completion(0).usage.cached_tokens == (expected or 0)
        assert text == answers(bench(loaded, form=used, cache_bytes=0), [asked], is_together=False)[0]
        kept.clear()
        kept.store("", tokens, fed(used, tokens).row(0))
        kept.close()
        assert number == 2 or list(tmp_path.glob("*.safetensors"))


def test_rows_that_outgrow_the_memory_take_turns_and_say_the_same(form: CacheForm, loaded: Loaded) -> None:
    asked = [PreparedGeneration(tokens_of(seed, 20 + 9 * seed), 60, GREEDY) for seed in range(6)]
    budget = KvBudget.of(form, 0)
    longest = min(140, form.window or 140)
    test = bench(loaded, form=form, kv_bytes=3 * (budget.row_bytes + longest * budget.token_bytes))
    expected = answers(bench(loaded, form=form, cache_bytes=0), asked, is_together=False)
    for request_id, one in enumerate(asked):
        test.add_asking(request_id, one)
    most = 0
    while test.engine.turn():
        most = max(most, len(test.engine._batch))
    assert most == 3 if form.window else 2 <= most <= 4
    assert [test.log.completion(request_id).text for request_id in range(6)] == expected


def test_a_window_bounds_a_rows_memory_and_not_its_length(wide_llama: Loaded) -> None:
    form = CacheForm(wide_llama.model, window=WINDOW)
    token_bytes = KvBudget.of(form, 0).token_bytes
    assert KvBudget.of(form, WINDOW * token_bytes).longest_row > 1 << 40
    assert KvBudget.of(form, WINDOW * token_bytes - 1).longest_row == WINDOW - 1
    budget = KvBudget.of(form, 5 * WINDOW * token_bytes)
    assert budget.fits(5, 1 << 40)
    assert not budget.fits(6, WINDOW)
    assert budget.fits(10, WINDOW // 2)


def test_guesses_are_checked_against_few_bits(wide_llama: Loaded) -> None:
    form = CacheForm(wide_llama.model, Quantization(8, 32))
    asked = [PreparedGeneration(prompt, 30, GREEDY) for prompt in prompts(6)]
    alone = answers(bench(wide_llama, form=form), asked, is_together=False)
    drafted = bench(wide_llama, form=form, drafter=Drafter(wide_llama.model, 4))
    assert answers(drafted, asked, is_together=False) == alone
