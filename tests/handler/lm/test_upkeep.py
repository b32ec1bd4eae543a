"""The folder of a model's files, and what is done when there is nothing else to do."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from app.core.conversation import Conversation, Message
from app.core.requests import GenerationRequest, Sampling
from app.handler.device import FreedMemory
from app.handler.lm.handler import LMHandler
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_folder import fingerprint, folder_of, lock_folder, remove_outdated
from app.handler.lm.prefixes.upkeep import CacheUpkeep, open_prefix_cache
from app.settings import ModelSpec
from tests.fixtures.driving import Log, run
from tests.fixtures.prefix_caches import fed, tokens_of
from tests.fixtures.tiny_lm import Loaded, load_folder


@pytest.mark.parametrize("change", ["config.json", "tokenizer.json", "model.safetensors", "renamed", "precision"])
def test_the_fingerprint_tells_versions_of_a_model_apart(llama: Loaded, tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(llama.folder, tmp_path / "model"))
    before = fingerprint(folder, CacheForm(llama.model))
    assert fingerprint(folder, CacheForm(llama.model)) == before
    (folder / "README.md").write_text("not of the model")
    assert fingerprint(folder, CacheForm(llama.model)) == before
    model = llama.model
    match change:
        case "renamed":
            (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        case "precision":
            model = load_folder(folder).model
            model.set_dtype(mx.float16)
        case _:
            path = folder / change
            path.write_bytes(path.read_bytes() + b" ")
    assert fingerprint(folder, CacheForm(model)) != before


def test_other_versions_of_a_model_are_removed_unless_in_use(tmp_path: Path) -> None:
    used, unused, current = (folder_of(tmp_path, "org/model", 32 * letter) for letter in "abc")
    others = [folder_of(tmp_path, "org/model-2", 32 * "a"), folder_of(tmp_path, "elsewhere/model", 32 * "a")]
    (tmp_path / "notes").mkdir()
    for folder in (unused, *others):
        folder.mkdir()
        (folder / "1.safetensors").write_text("")
    assert lock_folder(used) is not None
    assert lock_folder(current) is not None
    remove_outdated(current)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (used, current, *others)} | {"notes"}


def test_entries_expire_while_there_is_nothing_to_do(llama: Loaded) -> None:
    spec = ModelSpec(prompt_cache_ttl=1e-6)
    prefixes = open_prefix_cache(spec, llama.folder, CacheForm(llama.model), 2**30)
    upkeep = CacheUpkeep(prefixes)
    prefixes.store("", tokens_of(1, 40), fed(CacheForm(llama.model), tokens_of(1, 40)).row(0))
    pause_s = upkeep.rest(0.0)
    assert pause_s is not None
    assert upkeep.inspect().num_bytes == 0
    assert upkeep.inspect().expired == 1


def test_without_a_time_to_live_it_rests_for_good_in_the_end(llama: Loaded) -> None:
    prefixes = open_prefix_cache(ModelSpec(), llama.folder, CacheForm(llama.model), 2**30)
    upkeep = CacheUpkeep(prefixes)
    prefixes.store("", tokens_of(1, 40), fed(CacheForm(llama.model), tokens_of(1, 40)).row(0))
    pause_s = upkeep.rest(0.0)
    assert pause_s is not None
    assert pause_s > 0
    assert upkeep.rest(pause_s) is None
    assert upkeep.inspect().num_sequences == 1


def test_freed_memory_is_given_back_once() -> None:
    freed = FreedMemory()
    for _ in range(2):
        first_s = freed.give_back(0.0)
        assert first_s is not None
        mx.eval(mx.zeros((1 << 20,)))
        assert mx.get_cache_memory() > 0
        assert freed.give_back(first_s) is None
        assert mx.get_cache_memory() == 0
        mx.eval(mx.zeros((1 << 20,)))
        assert freed.give_back(2 * first_s) is None
        assert mx.get_cache_memory() > 0


def test_no_budget_in_memory_means_no_files(llama: Loaded, tmp_path: Path) -> None:
    spec = ModelSpec(prompt_cache_bytes=0, prompt_cache_dir=tmp_path / "prompts")
    assert open_prefix_cache(spec, llama.folder, CacheForm(llama.model), 0).files is None
    assert not (tmp_path / "prompts").exists()


def test_a_model_that_is_loaded_again_goes_on_where_it_was(batched: Loaded, tmp_path: Path) -> None:
    first = GenerationRequest(Conversation([Message("user", "word " * 80)]), Sampling(temperature=0.0), max_tokens=5)
    other = GenerationRequest(Conversation([Message("user", "other " * 60)]), Sampling(temperature=0.0), max_tokens=30)
    answers: list[list[str]] = []
    cached: list[int] = []
    for _ in range(2):
        log = Log()
        spec = ModelSpec(model_path=str(batched.folder), warmup=False, prompt_cache_dir=tmp_path)
        handler = LMHandler(batched.folder, spec, log.emit)
        handler.load()
        handler.submit(0, handler.prepare(other))
        handler.turn()
        handler.submit(1, handler.prepare(first))
        run(handler.turn)
        answers.append([log.completion(number).text for number in range(2)])
        cached.append(log.completion(1).usage.cached_tokens)
        assert (handler.inspect().disk_loads > 0) == (len(cached) == 2)
        handler.close()
    assert answers[0] == answers[1]
    assert cached[0] == 0
    assert cached[1] > 80
