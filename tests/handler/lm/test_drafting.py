"""Speculative decoding: the text is the model's own, however good the guesses are."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import ModelLoadError
from app.handler.lm.drafting import Drafter
from app.handler.lm.handler import LMHandler
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.sampling.sampling import SamplingParameters
from app.settings import ModelSpec
from tests.fixtures import tiny_lm
from tests.fixtures.driving import Log
from tests.fixtures.engine_bench import GREEDY, Bench, bench, prompts
from tests.fixtures.tiny_lm import Loaded, load_folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Another model of the same tokenizer, which guesses wrong."""
    return load_folder(tiny_lm.qwen2(tmp_path_factory.mktemp("models") / "stranger"))


def drafted(llama: Loaded, draft: Loaded, num_tokens: int, eos: frozenset[int] = frozenset()) -> Bench:
    return bench(llama, eos, drafter=Drafter(draft.model, num_tokens))


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
@pytest.mark.parametrize("guesses_right", [True, False])
def test_the_text_is_the_models_own(llama: Loaded, stranger: Loaded, num_tokens: int, guesses_right: bool) -> None:
    test = drafted(llama, llama if guesses_right else stranger, num_tokens)
    for request_id, prompt in enumerate(prompts(6)):
        test.add(request_id, prompt)
        test.run()
        done = test.log.completion(request_id)
        assert done.text == test.reference(prompt)
        assert done.usage.completion_tokens == 40


def test_right_guesses_save_passes(llama: Loaded, stranger: Loaded) -> None:
    passes: dict[str, int] = {}
    for name, draft in {"right": llama, "wrong": stranger}.items():
        test = drafted(llama, draft, 3)
        test.add(0, prompts(6)[4])
        while test.engine.turn():
            passes[name] = passes.get(name, 0) + 1
    assert passes["right"] < 16 < 40 <= passes["wrong"]


def test_a_row_ends_where_it_would_have_ended(llama: Loaded) -> None:
    prompt = prompts(6)[4]
    tokens = llama.greedy(prompt, 12)
    test = drafted(llama, llama, 5, frozenset({tokens[7]}))
    for count in range(1, 8):
        test.add(count, prompt, count)
        test.run()
        assert test.log.completion(count).text == test.reference(prompt, count)
    test.add(9, prompt)
    test.run()
    end = tokens.index(tokens[7])
    assert test.log.completion(9).text == test.reference(prompt, end)
    assert test.log.completion(9).reason == "stop"


def test_what_is_kept_of_a_drafted_row_is_right(llama: Loaded) -> None:
    test = drafted(llama, llama, 4)
    prompt = prompts(6)[5]
    test.add(0, prompt, 10)
    test.run()
    longer = [*prompt, *llama.greedy(prompt, 10), 5, 6, 7]
    test.add(1, longer)
    test.run()
    assert test.log.completion(1).usage.cached_tokens == len(prompt) + 10
    assert test.log.completion(1).text == test.reference(longer)


def test_rows_that_come_and_go_beside_a_drafted_one(llama: Loaded, stranger: Loaded) -> None:
    asked = prompts(6)
    for draft in (llama, stranger):
        test = drafted(llama, draft, 3)
        test.add(0, asked[4], 60)
        for request_id in range(1, 4):
            for _ in range(6):
                test.engine.turn()
            test.add(request_id, asked[request_id], 8)
        test.run()
        assert test.log.completion(0).text == test.reference(asked[4], 60)
        for request_id in range(1, 4):
            assert test.log.completion(request_id).text == test.reference(asked[request_id], 8)


def test_a_row_that_is_not_greedy_is_not_guessed(llama: Loaded, stranger: Loaded) -> None:
    sampling = SamplingParameters(temperature=1.0, seed=3)
    texts: list[str] = []
    for test in (bench(llama), drafted(llama, stranger, 3)):
        test.engine.add(0, replace(prepared(prompts(6)[4]), sampling=sampling))
        test.run()
        texts.append(test.log.completion(0).text)
    assert texts[0] == texts[1]


def prepared(prompt: list[int]) -> PreparedGeneration:
    return PreparedGeneration(prompt, 20, GREEDY)


def test_models_that_cannot_draft_are_refused(llama_folder: Path, model_folder: object, tmp_path: Path) -> None:
    lfm2 = model_folder("lfm2")  # type: ignore[operator]
    spm = tiny_lm.llama(tmp_path / "spm", style="spm")
    for main, draft, said in ((llama_folder, spm, "tokenizer"), (lfm2, llama_folder, "caches")):
        spec = ModelSpec(model_path=str(main), draft_model_path=str(draft), warmup=False)
        with pytest.raises(ModelLoadError, match=said):
            LMHandler(main, spec, Log().emit).load()
