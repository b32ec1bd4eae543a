import json
import re
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm import load

from app.core.conversation import Conversation, Message
from app.core.requests import GenerationRequest, Sampling
from app.errors import ContextLengthExceeded, ModelLoadError
from app.handler.lm.handler import LMHandler
from app.settings import ModelSpec
from tests.fixtures import tiny_lm
from tests.fixtures.driving import Log, run
from tests.fixtures.tiny_lm import Loaded

HELLO = [Message("user", "hello")]


def handler(folder: Path, log: Log | None = None, **settings: object) -> LMHandler:
    """Not loaded yet."""
    spec = ModelSpec.model_validate({"model_path": str(folder), "warmup": False} | settings)
    return LMHandler(folder, spec, (log or Log()).emit)


def ask(text: str = "hello", max_tokens: int | None = None, **sampling: object) -> GenerationRequest:
    own = Sampling(**({"temperature": 0.0} | sampling))  # type: ignore[arg-type]
    return GenerationRequest(Conversation([Message("user", text)]), own, max_tokens)


def answer(one: LMHandler, log: Log, request: GenerationRequest) -> str:
    request_id = len(log.events)
    one.submit(request_id, one.prepare(request))
    run(one.turn)
    return log.completion(request_id).text


def test_sixteen_conversations_at_once_are_answered_as_one_by_one(llama: Loaded) -> None:
    log = Log()
    one = handler(llama.folder, log)
    one.load()
    requests = [ask("word " * (3 * number) + f"number {number}", 30) for number in range(16)]
    for request_id, request in enumerate(requests):
        one.submit(request_id, one.prepare(request))
    run(one.turn)
    eos = 2
    for request_id, request in enumerate(requests):
        prompt = one.prepare(request).prompt
        tokens = llama.greedy(prompt, 30)
        expected = tokens[: tokens.index(eos)] if eos in tokens else tokens
        done = log.completion(request_id)
        assert done.text == llama.decode(expected)
        assert done.reason == ("stop" if eos in tokens else "length")
        assert done.usage.prompt_tokens == len(prompt)


def test_seeded_requests_repeat_whatever_runs_beside_them(llama: Loaded) -> None:
    log = Log()
    one = handler(llama.folder, log)
    one.load()
    seeded = ask(max_tokens=25, temperature=1.3, top_p=1.0, seed=42)
    expected = answer(one, log, seeded)
    others = [ask("other", 30, temperature=1.0, top_p=0.9), ask("more " * 40, 9, presence_penalty=1.0), ask("last", 12)]
    for number, request in enumerate([others[0], others[1], seeded, others[2], seeded]):
        one.submit(100 + number, one.prepare(request))
        one.turn()
    run(one.turn)
    assert log.completion(102).text == log.completion(104).text == expected
    assert answer(one, log, ask(max_tokens=25, temperature=1.3, top_p=1.0, seed=43)) != expected


def test_an_answer_ends_at_the_end_of_the_context(llama: Loaded) -> None:
    log = Log()
    one = handler(llama.folder, log, context_length=60)
    assert one.load().context_length == 60
    prepared = one.prepare(ask(max_tokens=500))
    one.submit(0, prepared)
    run(one.turn)
    done = log.completion(0)
    assert done.reason == "length"
    assert done.usage.prompt_tokens + done.usage.completion_tokens == 60
    with pytest.raises(ContextLengthExceeded):
        one.prepare(ask("word " * 60))


def test_cancel_and_close(llama: Loaded) -> None:
    log = Log()
    one = handler(llama.folder, log)
    one.load()
    one.submit(0, one.prepare(ask()))
    assert one.turn()
    one.cancel(0)
    one.cancel(0)
    assert not one.turn()
    assert not log.is_over(0)
    one.close()


def test_what_a_model_says_of_itself(llama: Loaded) -> None:
    info = handler(llama.folder, warmup=True).load()
    assert (info.kind, info.architecture, info.context_length) == ("lm", "llama", 512)
    assert info.load_s > 0
    assert info.device


def test_a_longer_context_than_the_models_own_is_not_believed(llama: Loaded) -> None:
    assert handler(llama.folder, context_length=100_000).load().context_length == 512


def test_half_precision_weights_are_prepared_for_the_device(llama: Loaded, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama.folder, tmp_path / "half"))
    model = load(str(folder))[0]
    model.set_dtype(mx.bfloat16)
    model.save_weights(str(folder / "model.safetensors"))
    log = Log()
    one = handler(folder, log)
    one.load()
    assert len(answer(one, log, ask(max_tokens=10))) > 0


class TestTemplateFile:
    def render(self, folder: Path, tmp_path: Path) -> str:
        file = tmp_path / "own.jinja"
        file.write_text("own template: {{ messages[0].content }}", encoding="utf-8")
        one = handler(folder, chat_template_file=str(file))
        one.load()
        return load(str(folder))[1].decode(one.prepare(ask()).prompt)

    def test_it_replaces_the_models_own(self, llama: Loaded, tmp_path: Path) -> None:
        assert self.render(llama.folder, tmp_path) == "own template: hello"

    def test_it_gives_one_to_a_model_without(self, tmp_path: Path) -> None:
        folder = tiny_lm.llama(tmp_path / "model")
        (folder / "chat_template.jinja").unlink()
        assert self.render(folder, tmp_path) == "own template: hello"

    def test_it_replaces_one_that_mlx_lm_brings(self, tmp_path: Path) -> None:
        folder = tiny_lm.llama(tmp_path / "model")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template_type": "deepseek_v32"}))
        assert self.render(folder, tmp_path) == "own template: hello"


class TestBrokenFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tiny_lm.llama(tmp_path / "model")

    def refusal(self, folder: Path) -> str:
        with pytest.raises(ModelLoadError) as refusal:
            handler(folder).load()
        assert str(folder) in refusal.value.message
        assert "\n" not in refusal.value.message
        return refusal.value.message

    def test_no_weights(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert "No safetensors" in self.refusal(folder)

    def test_weights_that_are_none(self, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        self.refusal(folder)

    def test_weights_of_another_model(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
        self.refusal(folder)

    def test_no_tokenizer(self, folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        self.refusal(folder)

    def test_a_broken_tokenizer(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text('{"version": "1.0"')
        self.refusal(folder)

    def test_code_of_its_own_is_not_run(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_file": "evil.py"}))
        (folder / "evil.py").write_text("raise SystemExit('it was run')")
        assert "evil.py" in self.refusal(folder)

    def test_a_model_that_cannot_compute_is_found_before_it_is_used(self, tmp_path: Path) -> None:
        """Too few layers for its own pattern of attention: mlx_lm builds it and fails when it is used."""
        folder = tiny_lm.gemma3(tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
        weights = mx.load(str(folder / "model.safetensors"))
        assert isinstance(weights, dict)
        kept = {name: array for name, array in weights.items() if not re.search(r"layers\.[23]\.", name)}
        mx.save_safetensors(str(folder / "model.safetensors"), kept, metadata={"format": "mlx"})
        for warmup in (False, True):
            with pytest.raises(ModelLoadError, match="fails on its first tokens"):
                handler(folder, warmup=warmup).load()
