"""Several adapters on one base: every row's answer is what mlx_lm says with that row's adapter alone."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.utils import load_adapters

from app.core.conversation import Conversation, Message
from app.core.requests import GenerationRequest, Sampling
from app.errors import ModelLoadError
from app.handler.lm.drafting import Drafter
from app.handler.lm.handler import LMHandler
from app.handler.lm.named_adapters import open_named_adapters
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.open import open_handler
from app.settings import ModelSpec
from tests.conftest import FolderByName
from tests.fixtures.adapters import Reach, Style, library_answer, write_adapter
from tests.fixtures.driving import Log, run
from tests.fixtures.engine_bench import GREEDY, PREFILL, Bench, bench, prompts
from tests.fixtures.tiny_lm import Loaded, load_folder

NUM_TOKENS = 24
# They share a layer, and each changes one that the other leaves alone.
WIDE = Reach(rank=8, num_layers=3, keys=("self_attn.q_proj", "mlp.up_proj"), scale=6.0)
NARROW = Reach(rank=2, num_layers=1, keys=("self_attn.q_proj", "self_attn.o_proj"), scale=15.0)
BY_KIND = {
    "lfm2": ("feed_forward.w1", "feed_forward.w2"),
    "qwen3_moe": ("mlp.switch_mlp.down_proj", "mlp.switch_mlp.gate_proj"),
}


@pytest.fixture
def adapters(tmp_path: Path, llama_folder: Path) -> dict[str, Path]:
    return written(tmp_path, llama_folder)


def written(home: Path, folder: Path, *keys: str) -> dict[str, Path]:
    reaches = {"wide": WIDE, "narrow": NARROW}
    return {
        name: write_adapter(
            home / name, folder, seed, Reach(one.rank, one.num_layers, keys[: seed + 1] or one.keys, one.scale)
        )
        for seed, (name, one) in enumerate(reaches.items())
    }


def adapted_bench(folder: Path, adapters: dict[str, Path], draft: nn.Module | None = None) -> Bench:
    loaded = load_folder(folder)
    named = open_named_adapters(loaded.model, adapters)
    return bench(loaded, adapters=named.rows, drafter=Drafter(draft, 3) if draft is not None else None)


def says(folder: Path, adapter: Path | None, prompt: list[int], num_tokens: int = NUM_TOKENS) -> str:
    """mlx_lm's own answer, with the weights as they are on disk."""
    model, tokenizer = load(str(folder), adapter_path=None if adapter is None else str(adapter))[:2]
    model.eval()
    loaded = Loaded(folder, model, tokenizer)
    return loaded.decode(loaded.greedy(prompt, num_tokens))


@pytest.mark.parametrize("kind", ["llama", "quantised", "gemma3", "lfm2", "qwen3_moe"])
def test_rows_with_different_adapters_and_none_run_together(
    kind: str, request: pytest.FixtureRequest, model_folder: FolderByName, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue("quantised_folder") if kind == "quantised" else model_folder(kind)
    adapters = written(tmp_path, folder, *BY_KIND.get(kind, ()))
    chosen = [None, *adapters.values()]
    test = adapted_bench(folder, adapters)
    asked = prompts(9)
    for row, prompt in enumerate(asked):
        test.add_asking(row, PreparedGeneration(prompt, NUM_TOKENS, GREEDY, adapter=row % 3))
    most = 0
    while test.engine.turn():
        most = max(most, len(test.engine._batch))
    assert most == len(asked)
    for row, prompt in enumerate(asked):
        assert test.log.completion(row).text == says(folder, chosen[row % 3], prompt)
    same = [says(folder, adapter, asked[4]) for adapter in chosen]
    assert len(set(same)) == 3


@pytest.mark.parametrize("num_tokens", [3, 40])
def test_experts_tell_rows_apart_sorted_or_not(num_tokens: int, model_folder: FolderByName, tmp_path: Path) -> None:
    folder = model_folder("qwen3_moe")
    adapters = written(tmp_path, folder, *BY_KIND["qwen3_moe"])
    loaded = load_folder(folder)
    named = open_named_adapters(loaded.model, adapters)
    tokens = mx.array([prompts(6)[5][:num_tokens]] * 4)
    logits = named.rows.run(loaded.model, (2, 0, 1, 2), tokens)
    for row, name in enumerate(["narrow", None, "wide", "narrow"]):
        model: Any = load(str(folder), adapter_path=None if name is None else str(adapters[name]))[0]
        assert mx.allclose(logits[row], model(tokens[:1])[0], rtol=1e-3, atol=1e-3)
    # Whoever does not say whose rows they are gets the base.
    assert mx.allclose(loaded.model(tokens)[0], logits[1], rtol=1e-3, atol=1e-3)


def test_experts_let_go_of_the_weights_that_they_were_tried_out_with(
    model_folder: FolderByName, tmp_path: Path
) -> None:
    folder = model_folder("qwen3_moe")
    adapter = write_adapter(tmp_path / "one", folder, 1, Reach(keys=BY_KIND["qwen3_moe"]))
    gc.collect()
    before = mx.get_active_memory()
    model: Any = load(str(folder))[0]
    open_named_adapters(model, {"mine": adapter})
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    gc.collect()
    arrays = [array for _, array in tree_flatten(model.parameters()) if isinstance(array, mx.array)]
    num_bytes = sum(array.nbytes for array in arrays)
    assert mx.get_active_memory() - before < 1.2 * num_bytes


@pytest.mark.parametrize("is_adapter_short", [False, True])
def test_weights_of_sixteen_bits(is_adapter_short: bool, llama_folder: Path, adapters: dict[str, Path]) -> None:
    loaded = load_folder(llama_folder)
    loaded.model.set_dtype(mx.bfloat16)
    rounded: list[dict[str, mx.array]] = []
    for folder in adapters.values():
        weights = mx.load(str(folder / "adapters.safetensors"))
        assert isinstance(weights, dict)
        rounded.append({name: array.astype(mx.bfloat16).astype(mx.float32) for name, array in weights.items()})
        if is_adapter_short:
            weights = {name: array.astype(mx.bfloat16) for name, array in weights.items()}
            mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    test = bench(loaded, adapters=open_named_adapters(loaded.model, adapters).rows)
    prompt = prompts(6)[2]
    for number in range(3):
        asked = PreparedGeneration(prompt, NUM_TOKENS, GREEDY, adapter=number, cache_namespace=str(number))
        test.add_asking(number, asked)
    test.run()
    for number, (weights, adapter) in enumerate(zip(rounded, adapters.values(), strict=True), 1):
        model, tokenizer = load(str(llama_folder))[:2]
        model.set_dtype(mx.bfloat16)
        load_adapters(model, str(adapter))
        if is_adapter_short:
            # What MLX computes with in its CPU back end's stead.
            model.load_weights(list(weights.items()), strict=False)
        own = Loaded(llama_folder, model, tokenizer)
        assert test.log.completion(number).text == own.decode(own.greedy(prompt, NUM_TOKENS))


def test_rows_that_come_and_go_keep_their_own(llama_folder: Path, adapters: dict[str, Path]) -> None:
    test = adapted_bench(llama_folder, adapters)
    prompt = prompts(6)[PREFILL % 6]
    numbers = [1, 0, 2, 2, 1, 0]
    for row, number in enumerate(numbers):
        test.add_asking(row, PreparedGeneration(prompt, 4 + 5 * row, GREEDY, adapter=number, cache_namespace=str(row)))
        test.engine.turn()
        test.engine.turn()
    test.engine.cancel(3)
    test.run()
    chosen = [None, *adapters.values()]
    for row, number in enumerate(numbers):
        if row != 3:
            assert test.log.completion(row).text == says(llama_folder, chosen[number], prompt, 4 + 5 * row)


def test_choices_of_one_prompt_have_its_adapter(llama_folder: Path, adapters: dict[str, Path]) -> None:
    test = adapted_bench(llama_folder, adapters)
    prompt = prompts(6)[4]
    test.add_asking(0, PreparedGeneration(prompt, NUM_TOKENS, GREEDY, num_choices=3, adapter=2))
    test.run()
    expected = says(llama_folder, adapters["narrow"], prompt)
    assert [choice.text for choice in test.log.whole(0).choices] == [expected] * 3


@pytest.mark.parametrize("guesses_right", [True, False])
def test_guessing_ahead_leaves_the_text_as_it_is(
    guesses_right: bool, llama_folder: Path, adapters: dict[str, Path], model_folder: FolderByName
) -> None:
    path = str(adapters["wide"]) if guesses_right else None
    draft = load(str(llama_folder if guesses_right else model_folder("qwen2")), adapter_path=path)[0]
    test = adapted_bench(llama_folder, adapters, draft)
    for request_id, prompt in enumerate(prompts(6)):
        test.add_asking(request_id, PreparedGeneration(prompt, NUM_TOKENS, GREEDY, adapter=1))
        test.run()
        assert test.log.completion(request_id).text == says(llama_folder, adapters["wide"], prompt)


class Served:
    """A handler with the adapters, and a log of its own for each request."""

    def __init__(self, folder: Path, adapters: dict[str, Path], prompt_cache_dir: Path | None = None) -> None:
        spec = ModelSpec(model_path=str(folder), warmup=False, adapters=adapters, prompt_cache_dir=prompt_cache_dir)
        self.log = Log()
        self.handler = LMHandler(folder, spec, self.log.emit)
        self.handler.load()
        self.count = 0

    def submit(self, adapter: str | None, key: str = "") -> list[int]:
        """Ask; gives the prompt's tokens."""
        text = "hello, " * 12
        conversation = Conversation([Message("user", text)])
        request = GenerationRequest(
            conversation, Sampling(temperature=0.0), NUM_TOKENS, adapter=adapter, cache_namespace=key
        )
        prepared = self.handler.prepare(request)
        self.handler.submit(self.count, prepared)
        self.count += 1
        return list(prepared.prompt)

    def answer(self, adapter: str | None, key: str = "") -> tuple[str, int]:
        """The text, and how many tokens of the prompt were found in the cache."""
        self.submit(adapter, key)
        run(self.handler.turn)
        done = self.log.completion(self.count - 1)
        return done.text, done.usage.cached_tokens


def test_the_handler_answers_as_the_adapter_served_alone(llama_folder: Path, adapters: dict[str, Path]) -> None:
    served = Served(llama_folder, adapters)
    names = [None, *adapters]
    prompts_ = [served.submit(name) for name in names]
    run(served.handler.turn)
    texts = [served.log.completion(index).text for index in range(3)]
    expected = [library_answer(llama_folder, path, prompts_[0], NUM_TOKENS) for path in adapters.values()]
    assert texts[1:] == expected
    assert len(set(texts)) == 3


def test_prefixes_are_an_adapters_own(llama_folder: Path, adapters: dict[str, Path]) -> None:
    served = Served(llama_folder, adapters)
    first = {name: served.answer(name) for name in (None, *adapters)}
    assert [cached for _, cached in first.values()] == [0, 0, 0]
    for name, (text, _) in first.items():
        again = served.answer(name)
        assert again[0] == text
        assert again[1] > 50
    # A key of the client's reaches nothing of the others', whatever it is.
    fingerprints = [one.fingerprint for one in served.handler._adapters.by_name.values()]
    for key in (*fingerprints, f"{fingerprints[0]}:", ":", "wide"):
        assert served.answer(None, key) == (first[None][0], 0)
        assert served.answer("narrow", key) == (first["narrow"][0], 0)


def test_adapters_of_one_form_and_time_share_no_prefixes(llama_folder: Path, tmp_path: Path) -> None:
    """As an archive may give all its files one time."""
    both = {name: write_adapter(tmp_path / name, llama_folder, seed) for seed, name in enumerate(("one", "other"))}
    for folder in both.values():
        os.utime(folder / "adapters.safetensors", (1, 1))
    served = Served(llama_folder, both)
    first = served.answer("one")
    other = served.answer("other")
    assert other[1] == 0
    assert other[0] != first[0]


def test_prefixes_on_disk_are_those_of_an_adapter_as_it_is(
    llama_folder: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    names = [None, *adapters]
    served = Served(llama_folder, adapters, tmp_path / "kept")
    first = [served.answer(name)[0] for name in names]
    served.handler.close()
    served = Served(llama_folder, adapters, tmp_path / "kept")
    again = [served.answer(name) for name in names]
    assert [text for text, _ in again] == first
    assert all(cached > 50 for _, cached in again)
    served.handler.close()
    other = write_adapter(tmp_path / "other", llama_folder, 9)
    (other / "adapters.safetensors").rename(adapters["wide"] / "adapters.safetensors")
    (other / "adapter_config.json").rename(adapters["wide"] / "adapter_config.json")
    served = Served(llama_folder, adapters, tmp_path / "kept")
    changed = {name: served.answer(name) for name in names}
    served.handler.close()
    assert changed["wide"][1] == 0
    assert changed["wide"][0] != first[1]
    assert changed[None] == again[0]
    assert changed["narrow"] == again[2]


@pytest.mark.parametrize(
    ("style", "keys", "kind", "said"),
    [
        ("dora", ("self_attn.q_proj",), "llama", "is of type 'dora'"),
        ("full", (), "llama", "is of type 'full'"),
        ("lora", ("model.embed_tokens",), "llama", "changes 'model.embed_tokens', which is neither a linear layer"),
    ],
)
def test_what_cannot_share_a_base_says_how_to_serve_it(
    style: Style, keys: tuple[str, ...], kind: str, said: str, model_folder: FolderByName, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "one", model_folder(kind), 1, Reach(keys=keys), style)
    with pytest.raises(ModelLoadError) as caught:
        Served(model_folder(kind), {"mine": adapter})
    assert caught.value.message.startswith(f"The adapter 'mine' ('{adapter}') ")
    assert said in caught.value.message
    assert "--adapter-path" in caught.value.message


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("absent", "is no folder"),
        ("peft", "is in PEFT's format"),
        ("no JSON", "does not fit this model"),
        ("no object", "does not fit this model"),
        ("other model", "does not fit this model: Adapter at"),
    ],
)
def test_one_that_cannot_be_used_is_named(
    how: str, said: str, llama_folder: Path, wide_llama: Loaded, tmp_path: Path
) -> None:
    good = write_adapter(tmp_path / "good", llama_folder, 1)
    adapter = tmp_path / "absent"
    if how != "absent":
        adapter = write_adapter(tmp_path / "bad", wide_llama.folder if how == "other model" else llama_folder, 1, WIDE)
    match how:
        case "peft":
            (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")
        case "no JSON":
            (adapter / "adapter_config.json").write_text("{")
        case "no object":
            (adapter / "adapter_config.json").write_text("[]")
        case _:
            pass
    with pytest.raises(ModelLoadError) as caught:
        Served(llama_folder, {"good": good, "bad": adapter})
    assert caught.value.message.startswith(f"The adapter 'bad' ('{adapter}') {said}")
    assert "\n" not in caught.value.message


class _Inside(nn.Module):
    """A part of a model with another one around it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class TokenByToken(_Inside):
    def __call__(self, x: mx.array) -> mx.array:
        inner: Any = self.inner
        return mx.stack([inner(one[None])[0] for one in x.reshape(-1, x.shape[-1])]).reshape(x.shape)


class Compiled(_Inside):
    def __call__(self, x: mx.array) -> mx.array:
        inner: Any = self.inner
        if "step" not in self:
            self["step"] = mx.compile(inner)
        return self["step"](x)


@pytest.mark.parametrize(
    ("around", "said"), [(TokenByToken, "mixes the rows of a pass"), (Compiled, "parts of it are compiled")]
)
def test_models_whose_rows_cannot_be_told_apart_are_refused(
    around: Callable[[nn.Module], nn.Module], said: str, llama_folder: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "one", llama_folder, 1, Reach(num_layers=1, keys=("mlp.down_proj",)))
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace("mlp.down_proj", "mlp.inner.down_proj"))
    weights = mx.load(str(adapter / "adapters.safetensors"))
    assert isinstance(weights, dict)
    moved = {name.replace("mlp.down_proj", "mlp.inner.down_proj"): array for name, array in weights.items()}
    mx.save_safetensors(str(adapter / "adapters.safetensors"), moved)
    model: Any = load(str(llama_folder))[0]
    model.model.layers[-1].mlp = around(model.model.layers[-1].mlp)
    with pytest.raises(ModelLoadError, match=said):
        open_named_adapters(model, {"mine": adapter})


def test_other_kinds_refuse_one_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    spec = ModelSpec(model_path=str(folder), adapters={"mine": tmp_path})
    with pytest.raises(ModelLoadError, match=r"of kind embeddings, which takes no adapters; leave out --adapter mine"):
        open_handler(spec, tmp_path, Log().emit, lambda _: None)
