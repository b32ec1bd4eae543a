"""One base model with different adapters: each is a model of its own."""

import json
from pathlib import Path

from mlx_lm.utils import load_tokenizer

from tests.e2e.conftest import StartServer
from tests.fixtures.adapters import library_answer, write_adapter

MESSAGES = [{"role": "user", "content": "hello"}]
NUM_TOKENS = 20


def test_two_entries_with_the_same_base_serve_both(start_server: StartServer, tiny_model: Path, tmp_path: Path) -> None:
    adapters = {name: write_adapter(tmp_path / f"{name}-adapter", tiny_model, seed) for seed, name in enumerate("ab")}
    entries: list[dict[str, object]] = [
        {"model_path": str(tiny_model), "served_model_name": name, "adapter_path": str(path)}
        for name, path in adapters.items()
    ]
    entries.append({"model_path": str(tiny_model), "served_model_name": "bare"})
    (tmp_path / "models.json").write_text(json.dumps({"models": entries}))
    server = start_server("--config", tmp_path / "models.json").wait_until_ready()

    def answer(name: str) -> str:
        body = {"model": name, "messages": MESSAGES, "temperature": 0, "max_tokens": NUM_TOKENS}
        return server.post(body).json()["choices"][0]["message"]["content"]

    prompt = load_tokenizer(tiny_model).apply_chat_template(MESSAGES, add_generation_prompt=True)
    expected = {name: library_answer(tiny_model, path, list(prompt), NUM_TOKENS) for name, path in adapters.items()}
    assert {name: answer(name) for name in adapters} == expected
    assert len({answer("bare"), *expected.values()}) == 3
    shown = {model["id"]: model["adapter"] for model in server.get("/v1/models").json()["data"]}
    assert shown == {"a": "a-adapter", "b": "b-adapter", "bare": None}
