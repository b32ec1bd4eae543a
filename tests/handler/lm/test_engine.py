import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.events import PrefillProgress, Started, TextDelta
from app.handler.lm.context_cost import ContextCost
from app.handler.lm.prompts.prompt import PreparedGeneration
from tests.fixtures.driving import check_order, run
from tests.fixtures.engine_bench import GREEDY, NUM_TOKENS, PREFILL, Bench, bench, counts, prompts
from tests.fixtures.tiny_lm import Loaded, load_folder


def test_sixteen_at_once_say_what_mlx_lm_says_to_each_alone(batched: Loaded) -> None:
    test = bench(batched)
    asked = prompts(16)
    for row_id, prompt in enumerate(asked):
        test.add(row_id, prompt)
    test.run()
    for row_id, prompt in enumerate(asked):
        done = test.log.completion(row_id)
        assert done.text == test.reference(prompt), row_id
        assert done.reason == "length"
        assert counts(done) == (len(prompt), NUM_TOKENS)


def test_one_after_the_other_on_the_same_engine(batched: Loaded) -> None:
    test = bench(batched)
    for row_id, prompt in enumerate(prompts(6)):
        test.add(row_id, prompt)
        test.run()
        assert test.log.completion(row_id).text == test.reference(prompt)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_do_not_touch_each_other(batched: Loaded, seed: int) -> None:
    draw = random.Random(seed)
    test = bench(batched)
    asked = prompts(14, seed=seed)
    draw.shuffle(asked)
    lengths = [draw.choice([1, 2, 3, draw.randint(4, NUM_TOKENS)]) for _ in asked]
    arrivals = sorted(draw.randint(0, 90) for _ in asked)
    ends = {row_id: arrivals[row_id] + draw.randint(0, 60) for row_id in range(len(asked)) if draw.random() < 0.3}
    turn, is_busy = 0, True
    while turn <= arrivals[-1] or is_busy:
        for row_id, prompt in enumerate(asked):
            if arrivals[row_id] == turn:
                test.add(row_id, prompt, lengths[row_id])
            if ends.get(row_id) == turn and not test.log.is_over(row_id):
                test.engine.cancel(row_id)
            elif ends.get(row_id) == turn:
                del ends[row_id]
        is_busy = test.engine.turn()
        turn += 1
    for row_id, prompt in enumerate(asked):
        whole = test.reference(prompt, lengths[row_id])
        if row_id in ends and not test.log.is_over(row_id):
            assert whole.startswith(test.log.text(row_id)), row_id
        else:
            assert test.log.completion(row_id).text == whole, row_id


def test_a_row_longer_than_the_rotating_caches_many_times_over(batched: Loaded) -> None:
    test = bench(batched)
    asked = [prompts(6, longest=120)[-1], [5], prompts(6)[2]]
    for row_id, prompt in enumerate(asked):
        test.add(row_id, prompt, 150)
        for _ in range(7):
            test.engine.turn()
    test.run()
    for row_id, prompt in enumerate(asked):
        assert test.log.completion(row_id).text == test.reference(prompt, 150), row_id


def test_rows_of_a_model_whose_caches_cannot_be_batched(model_folder: Callable[[str], Path]) -> None:
    test = bench(load_folder(model_folder("llama4")))
    asked = prompts(5)
    for row_id, prompt in enumerate(asked):
        test.add(row_id, prompt, 12)
        test.engine.turn()
    test.run()
    for row_id, prompt in enumerate(asked):
        assert test.log.completion(row_id).text == test.reference(prompt, 12), row_id


class TestCancel:
    """In each state a row can be in; the neighbour answers as if nothing had been."""

    @pytest.fixture
    def test(self, llama: Loaded) -> Bench:
        test = bench(llama)
        test.add(0, prompts(6)[1])
        test.turn_until(lambda: len(test.log.text(0)) > 0)
        return test

    def finish(self, test: Bench, cancelled: int = 1) -> None:
        told = list(test.log.events[cancelled])
        test.run()
        assert test.log.events[cancelled] == told
        assert not test.log.is_over(cancelled)
        assert test.log.completion(0).text == test.reference(prompts(6)[1])

    def test_waiting(self, test: Bench) -> None:
        test.add(1, prompts(6)[5])
        test.engine.cancel(1)
        assert test.log.events[1] == []
        self.finish(test)

    def test_waiting_behind_another(self, test: Bench) -> None:
        test.add(2, prompts(6)[5])
        test.add(1, prompts(6)[4])
        test.engine.cancel(1)
        self.finish(test)
        assert test.log.completion(2).text == test.reference(prompts(6)[5])

    def test_prefilling(self, test: Bench) -> None:
        test.add(1, [7] * 300, 5)
        test.turn_until(lambda: any(isinstance(event, PrefillProgress) for event in test.log.events[1]))
        test.engine.cancel(1)
        self.finish(test)

    def test_beginning_to_decode(self, test: Bench) -> None:
        test.add(1, [7])
        test.turn_until(lambda: len(test.engine._batch) == 2)
        test.engine.cancel(1)
        self.finish(test)

    def test_decoding(self, test: Bench) -> None:
        test.add(1, prompts(6)[3])
        test.turn_until(lambda: len(test.log.text(1)) > 10)
        test.engine.cancel(1)
        self.finish(test)

    def test_the_only_row(self, llama: Loaded) -> None:
        test = bench(llama)
        test.add(1, [7])
        test.turn_until(lambda: len(test.log.events[1]) > 2)
        test.engine.cancel(1)
        assert not test.engine.turn()
        test.add(0, prompts(6)[1])
        self.finish(test)

    def test_unknown_or_over(self, test: Bench) -> None:
        test.engine.cancel(99)
        test.add(1, [7], 2)
        test.turn_until(lambda: test.log.is_over(1))
        test.engine.cancel(1)
        test.run()
        assert counts(test.log.completion(1)) == (1, 2)
        assert test.log.completion(0).text == test.reference(prompts(6)[1])


class TestPrefill:
    def test_a_long_prompt_stops_nobody(self, llama: Loaded) -> None:
        """The row that answers gets a token between any two chunks of the long prompt."""
        test = bench(llama)
        test.add(0, [5])
        while len(test.log.order) < 4:
            test.engine.turn()
        test.add(1, [7] * 300, 1)
        run(test.engine.turn)
        order = [(row_id, type(event)) for row_id, event in test.log.order]
        chunks = [at for at, told in enumerate(order) if told == (1, PrefillProgress)]
        assert len(chunks) >= 4
        for one, next_one in itertools.pairwise(chunks):
            assert (0, TextDelta) in order[one:next_one]

    def test_what_is_half_done_is_not_begun_anew_for_a_short_one(self, llama: Loaded) -> None:
        test = bench(llama, cache_bytes=0)
        test.add(0, [7] * 42, 3)
        test.engine.turn()
        assert test.log.events[0] == [Started(42), PrefillProgress(21, 42)]
        # Fewer tokens than the first has left: it goes first.
        test.add(1, [8] * 6, 3)
        test.run()
        progress = [event for event in test.log.events[0] if isinstance(event, PrefillProgress)]
        assert progress == [PrefillProgress(21, 42), PrefillProgress(41, 42)]
        assert test.log.completion(1).text == test.reference([8] * 6, 3)

    def test_progress_counts_all_but_the_last_token(self, llama: Loaded) -> None:
        test = bench(llama)
        test.add(0, [7] * 80, 1)
        test.run()
        check_order(test.log.events[0])
        assert test.log.events[0][:4] == [
            Started(80),
            PrefillProgress(27, 80),
            PrefillProgress(54, 80),
            PrefillProgress(79, 80),
        ]

    @pytest.mark.parametrize("num_tokens", [32, 33, 63, 65, 100, 257])
    def test_passes_are_as_few_as_can_be_and_alike(self, llama: Loaded, num_tokens: int) -> None:
        test = bench(llama)
        test.add(0, prompt := list(range(3, 3 + num_tokens)), 3)
        test.run()
        ends = [event.done for event in test.log.events[0] if isinstance(event, PrefillProgress)]
        # The last token is in the last pass.
        sizes = [stop - start for start, stop in itertools.pairwise([0, *ends[:-1], num_tokens])]
        assert len(sizes) == -(-num_tokens // 32)
        assert max(sizes) <= 32
        assert max(sizes) - min(sizes) <= len(sizes)
        assert test.log.completion(0).text == test.reference(prompt, 3)

    @pytest.mark.parametrize("num_tokens", [172, 200, 255])
    def test_passes_that_see_more_are_shorter_and_no_more_than_they_have_to_be(
        self, llama: Loaded, num_tokens: int
    ) -> None:
        cost = ContextCost(even_at=200.0)
        test = bench(llama, context_cost=cost)
        test.add(0, list(range(3, 3 + num_tokens)), 1)
        test.run()
        ends = [event.done for event in test.log.events[0] if isinstance(event, PrefillProgress)]
        bounds = [0, *ends[:-1], num_tokens]
        costs = [cost.of(start, stop - start) for start, stop in itertools.pairwise(bounds)]
        assert max(costs) <= PREFILL
        fewest, done = 0, 0
        while done < num_tokens:
            done += cost.affordable(done, PREFILL)
            fewest += 1
        assert len(costs) == fewest
        assert min(costs) > max(costs) / 2

    def test_passes_that_end_where_a_message_does_are_no_more_than_they_have_to_be(
        self, model_folder: Callable[[str], Path]
    ) -> None:
        test = bench(load_folder(model_folder("lfm2")))
        prompt = list(range(3, 3 + 290))
        test.add_asking(0, PreparedGeneration(prompt, 1, GREEDY, message_ends=(265,)))
        test.run()
        ends = [event.done for event in test.log.events[0] if isinstance(event, PrefillProgress)]
        assert 265 in ends
        assert len(ends) == -(-265 // PREFILL) + 1
        sizes = [stop - start for start, stop in itertools.pairwise([0, *ends[:-1]])]
        assert max(sizes) - min(sizes) <= len(sizes)

    def test_passes_get_shorter_where_the_scores_of_attention_are_kept(self, llama: Loaded) -> None:
        test = bench(llama, max_pairs=800)
        prompt = list(range(3, 83))
        test.add(0, prompt, 3)
        test.run()
        ends = [0] + [event.done for event in test.log.events[0] if isinstance(event, PrefillProgress)]
        assert ends[-1] == 79
        assert [stop - start for start, stop in itertools.pairwise(ends)] == [28, 17, 13, 11, 10]
        assert all((stop - start) * stop <= 800 for start, stop in itertools.pairwise(ends))
        assert test.log.completion(0).text == test.reference(prompt, 3)
