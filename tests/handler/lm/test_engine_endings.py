import gc
from typing import Any

import mlx.core as mx
from mlx import nn

from app.core.events import Failed, TextDelta
from tests.fixtures.engine_bench import NUM_TOKENS, bench, counts, prompts
from tests.fixtures.tiny_lm import Loaded


class TestTheEnd:
    def test_max_tokens(self, llama: Loaded) -> None:
        test = bench(llama)
        prompt = prompts(6)[4]
        for count in range(1, 8):
            test.add(count, prompt, count)
        test.run()
        for count in range(1, 8):
            done = test.log.completion(count)
            assert (done.text, done.reason) == (test.reference(prompt, count), "length")
            assert counts(done) == (len(prompt), count)

    def test_an_end_of_sequence_token_is_counted_and_not_shown(self, llama: Loaded) -> None:
        prompt = prompts(6)[4]
        tokens = llama.greedy(prompt, NUM_TOKENS)
        for place in (0, 1, 9):
            assert tokens.index(tokens[place]) == place
            test = bench(llama, frozenset({tokens[place], 100_000}))
            test.add(0, prompt)
            test.run()
            done = test.log.completion(0)
            assert (done.text, done.reason) == (llama.decode(tokens[:place]), "stop")
            assert done.stop_sequence is None
            assert counts(done) == (len(prompt), place + 1)

    def test_an_end_of_sequence_token_as_the_last_token_allowed(self, llama: Loaded) -> None:
        prompt = prompts(6)[4]
        tokens = llama.greedy(prompt, 5)
        test = bench(llama, frozenset({tokens[4]}))
        test.add(0, prompt, 5)
        test.run()
        assert test.log.completion(0).reason == "stop"

    def test_an_end_of_sequence_token_in_the_prompt_ends_nothing(self, llama: Loaded) -> None:
        eos = 2
        prompt = [eos, 5, eos]
        assert eos not in llama.greedy(prompt, 8)
        test = bench(llama, frozenset({eos}))
        test.add(0, prompt, 8)
        test.run()
        assert test.log.completion(0).text == test.reference(prompt, 8)

    def test_every_short_piece_of_the_answer_as_a_stop_string(self, llama: Loaded) -> None:
        """Inside a token, at its edges, across tokens: the text before it is exact whichever it is."""
        prompt = prompts(6)[4]
        test = bench(llama)
        whole = test.reference(prompt)
        stops = {whole[at : at + size] for at in range(0, len(whole), 7) for size in (1, 2, 5, 17)}
        stops.discard("")
        by_id = dict(enumerate(sorted(stops)))
        for row_id, stop in by_id.items():
            test.add(row_id, prompt, NUM_TOKENS, (stop, "never said"))
        test.run()
        for row_id, stop in by_id.items():
            done = test.log.completion(row_id)
            assert done.text == whole[: whole.index(stop)]
            assert (done.reason, done.stop_sequence) == ("stop", stop)

    def test_a_row_with_a_stop_string_stops_at_the_token_that_completes_it(self, llama: Loaded) -> None:
        prompt = prompts(6)[4]
        tokens = llama.greedy(prompt, NUM_TOKENS)
        stop = llama.decode(tokens[:12])[-2:]
        assert stop not in llama.decode(tokens[:12])[:-1]
        test = bench(llama)
        test.add(0, prompt, NUM_TOKENS, (stop,))
        test.run()
        assert counts(test.log.completion(0)) == (len(prompt), 12)

    def test_what_was_held_back_for_a_stop_string_is_given_at_the_end(self, llama: Loaded) -> None:
        prompt = prompts(6)[4]
        test = bench(llama)
        whole = test.reference(prompt, 12)
        test.add(0, prompt, 12, (whole[-5:] + "never said",))
        test.run()
        done = test.log.completion(0)
        assert (done.text, done.reason, done.stop_sequence) == (whole, "length", None)

    def test_half_a_character_at_the_end(self, llama: Loaded) -> None:
        emoji = llama.tokenizer.encode("\U0001f9ff", add_special_tokens=False)
        assert len(emoji) > 1
        model = Constant(emoji[0])
        test = bench(llama, model=model)
        test.add(0, [5], 3)
        test.run()
        assert test.log.completion(0).text == llama.decode([emoji[0]] * 3)


class Constant(nn.Module):
    """Says one token for ever."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.layers: list[nn.Module] = []
        self.token = token

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        return (mx.arange(1024) == self.token).astype(mx.float32) + mx.zeros((*inputs.shape, 1))


class Failing(nn.Module):
    """A model that raises when it is fed `token`."""

    def __init__(self, inner: nn.Module, token: int) -> None:
        super().__init__()
        self.inner = inner
        self.token = token

    @property
    def layers(self) -> Any:
        return self.inner.layers

    def __call__(self, inputs: mx.array, cache: list[Any]) -> mx.array:
        if (inputs == self.token).any().item():
            raise RuntimeError("this model cannot bear that token")
        return self.inner(inputs, cache=cache)


class TestFailures:
    def test_a_prompt_that_fails_harms_no_neighbour(self, llama: Loaded) -> None:
        bad = 1023
        test = bench(llama, model=Failing(llama.model, bad))
        good = [prompts(6)[1], prompts(6)[5], prompts(6)[4]]
        assert all(bad not in llama.greedy(prompt, NUM_TOKENS) for prompt in good)
        test.add(0, good[0])
        test.turn_until(lambda: len(test.log.text(0)) > 0)
        test.add(1, [9] * 70 + [bad] + [9] * 70)
        test.add(2, good[1])
        test.run()
        test.add(3, good[2])
        test.run()
        assert test.log.failure(1) == Failed("InternalError", test.log.failure(1).message)
        assert "cannot bear" not in test.log.failure(1).message
        for row_id, prompt in zip((0, 2, 3), good, strict=True):
            assert test.log.completion(row_id).text == test.reference(prompt)

    def test_a_prompt_that_fails_leaves_nothing_in_memory(self, llama: Loaded) -> None:
        bad = 1023
        test = bench(llama, model=Failing(llama.model, bad), cache_bytes=0)
        gc.collect()
        before = mx.get_active_memory()
        test.add(0, [9] * 200 + [bad] * 2)
        test.run()
        assert test.log.failure(0).error == "InternalError"
        gc.collect()
        assert mx.get_active_memory() - before < 10_000

    def test_a_short_prompt_that_fails_harms_none_of_those_beside_it(self, llama: Loaded) -> None:
        bad = 1023
        test = bench(llama, model=Failing(llama.model, bad))
        asked = [[9, 8, 7], [9, bad, 7], [6, 5, 4, 3, 2], [bad, 1]]
        for row_id, prompt in enumerate(asked):
            test.add(row_id, prompt, 5)
        test.run()
        for row_id, prompt in enumerate(asked):
            if bad in prompt:
                assert test.log.failure(row_id).error == "InternalError"
            else:
                assert test.log.completion(row_id).text == test.reference(prompt, 5)

    def test_a_step_that_fails_ends_its_rows_and_no_more(self, llama: Loaded) -> None:
        short, long, other = prompts(6)[1], [9] * 400, prompts(6)[4]
        bad = llama.greedy(short, 12)[9]
        assert all(bad not in [*prompt, *llama.greedy(prompt, 12)] for prompt in (long, other))
        test = bench(llama, model=Failing(llama.model, bad))
        test.add(0, short, 30)
        test.add(1, other, 30)
        test.turn_until(lambda: len(test.log.text(1)) > 0)
        test.add(2, long, 12)
        test.run()
        for row_id in (0, 1):
            assert test.log.failure(row_id).error == "InternalError"
            assert any(isinstance(event, TextDelta) for event in test.log.events[row_id])
        assert test.log.completion(2).text == test.reference(long, 12)
        test.add(3, other, 12)
        test.run()
        assert test.log.completion(3).text == test.reference(other, 12)

    def test_a_detokenizer_that_fails_ends_its_row_only(self, llama: Loaded) -> None:
        class Raising:
            def push(self, token: int) -> str:
                raise OverflowError("out of range integral type conversion attempted")

            def finish(self) -> str:
                return ""

            def bytes_of(self, token: int) -> bytes:
                return b""

        test = bench(llama)
        prompt = prompts(6)[4]
        test.add(0, prompt)
        test.engine._answering._new_detokenizer = Raising
        test.add(1, [5, 6], 10)
        test.run()
        assert test.log.failure(1).error == "InternalError"
        assert test.log.completion(0).text == test.reference(prompt)
