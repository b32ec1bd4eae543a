"""LoRA adapters, against mlx_lm with the same ones."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from app.core.conversation import Conversation, Message
from app.core.requests import GenerationRequest, Sampling
from app.errors import ModelLoadError
from app.handler.lm.handler import LMHandler
from app.handler.lm.kv.cache_form import CacheForm
from app.handler.lm.prefixes.prefix_folder import fingerprint
from app.handler.open import open_handler
from app.settings import ModelSpec
from tests.fixtures.adapters import Reach, Style, library_answer, write_adapter
from tests.fixtures.driving import Log, run
from tests.fixtures.tiny_lm import Loaded

NUM_TOKENS = 24


def answer(folder: Path, adapter: Path | None) -> tuple[list[int], str]:
    """The prompt's tokens, and what the handler answers."""
    log = Log()
    spec = ModelSpec(model_path=str(folder), warmup=False, adapter_path=adapter)
    one = LMHandler(folder, spec, log.emit)
    one.load()
    sampling = Sampling(temperature=0.0)
    prepared = one.prepare(GenerationRequest(Conversation([Message("user", "hello")]), sampling, NUM_TOKENS))
    one.submit(0, prepared)
    run(one.turn)
    return list(prepared.prompt), log.completion(0).text


@pytest.mark.parametrize(
    ("fixture", "style"),
    [("llama_folder", "lora"), ("quantised_folder", "lora"), ("quantised_folder", "dora"), ("llama_folder", "full")],
)
def test_answers_are_mlx_lms_with_the_same_adapter(
    fixture: str, style: Style, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    adapters = [write_adapter(tmp_path / str(seed), folder, seed, style=style) for seed in (1, 2)]
    prompt, bare = answer(folder, None)
    texts = [answer(folder, adapter)[1] for adapter in adapters]
    assert texts == [library_answer(folder, adapter, prompt, NUM_TOKENS) for adapter in adapters]
    assert len({bare, *texts}) == 3


def test_layers_that_drop_values_in_training_do_not_when_served(llama_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "dropping", llama_folder, 1, Reach(dropout=0.5))
    prompt, text = answer(llama_folder, adapter)
    assert text == library_answer(llama_folder, adapter, prompt, NUM_TOKENS) == answer(llama_folder, adapter)[1]


def broken(adapter: Path, how: str) -> None:
    config = adapter / "adapter_config.json"
    match how:
        case "absent":
            shutil.rmtree(adapter)
        case "no config":
            config.unlink()
        case "no weights":
            (adapter / "adapters.safetensors").unlink()
        case "peft":
            (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")
        case "other rank":
            fields = json.loads(config.read_text())
            fields["lora_parameters"]["rank"] = 2
            config.write_text(json.dumps(fields))
        case "alpha":
            fields = json.loads(config.read_text())
            fields["lora_parameters"]["alpha"] = fields["lora_parameters"].pop("scale")
            config.write_text(json.dumps(fields))
        case "no JSON":
            config.write_text("{")
        case "cut":
            data = (adapter / "adapters.safetensors").read_bytes()
            (adapter / "adapters.safetensors").write_bytes(data[:-10])
        case _:
            mx.save_safetensors(str(adapter / "adapters.safetensors"), {"model.layers.9.x.lora_a": mx.zeros((2, 2))})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("absent", "is no folder"),
        ("no config", "has no adapter_config.json"),
        ("no weights", "has no adapters.safetensors"),
        ("peft", "is in PEFT's format"),
        ("other rank", "does not match model parameter shape"),
        ("alpha", "missing required key 'scale'"),
        ("no JSON", "does not fit this model"),
        ("cut", "does not fit this model"),
        ("other model", "model.layers.9.x.lora_a: not an adapter parameter in the model"),
    ],
)
def test_one_that_cannot_be_used_is_a_sentence(how: str, said: str, llama_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", llama_folder, 1)
    broken(adapter, how)
    spec = ModelSpec(model_path=str(llama_folder), warmup=False, adapter_path=adapter)
    with pytest.raises(ModelLoadError) as caught:
        LMHandler(llama_folder, spec, Log().emit).load()
    assert said in caught.value.message
    assert str(adapter) in caught.value.message
    assert "\n" not in caught.value.message


def test_other_kinds_refuse_one_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    spec = ModelSpec(model_path=str(folder), adapter_path=tmp_path)
    with pytest.raises(ModelLoadError, match=r"of kind embeddings, which takes no adapters; leave out --adapter-path"):
        open_handler(spec, tmp_path, Log().emit, lambda _: None)


def test_kept_prompts_are_those_of_an_adapter_as_it_is(llama: Loaded, tmp_path: Path) -> None:
    form = CacheForm(llama.model)
    one = write_adapter(tmp_path / "one", llama.folder, 1)
    other = write_adapter(tmp_path / "other", llama.folder, 2)
    before = fingerprint(llama.folder, form, one)
    assert fingerprint(llama.folder, form, one) == before
    assert len({before, fingerprint(llama.folder, form, other), fingerprint(llama.folder, form)}) == 3
    config = one / "adapter_config.json"
    config.write_text(config.read_text().replace("10.0", "20.0"))
    assert fingerprint(llama.folder, form, one) != before


def test_prompts_kept_on_disk_are_an_adapters_own(llama_folder: Path, tmp_path: Path) -> None:
    adapters = [
        None,
        write_adapter(tmp_path / "one", llama_folder, 1),
        write_adapter(tmp_path / "two", llama_folder, 2),
    ]
    for adapter in [*adapters, *adapters]:
        spec = ModelSpec(
            model_path=str(llama_folder), warmup=False, adapter_path=adapter, prompt_cache_dir=tmp_path / "kept"
        )
        one = LMHandler(llama_folder, spec, Log().emit)
        one.load()
        one.close()
    # Neither is taken for another version of the other and removed.
    assert len(list((tmp_path / "kept").iterdir())) == len(adapters)
