"""One base model with several adapters, each under a name of its own, in one process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from mlx_lm.utils import load_tokenizer
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.e2e.conftest import StartServer
from tests.e2e.processes import eventually
from tests.fixtures.adapters import Reach, library_answer, write_adapter

MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "hello, " * 8}]
NUM_TOKENS = 20


def test_adapters_are_models_of_their_own_in_one_process(
    start_server: StartServer, tiny_model: Path, tmp_path: Path
) -> None:
    adapters = {
        "support": write_adapter(tmp_path / "support-folder", tiny_model, 1),
        "sql/v2": write_adapter(tmp_path / "sql-folder", tiny_model, 2, Reach(rank=7, num_layers=1)),
    }
    arguments = [argument for name, path in adapters.items() for argument in ("--adapter", f"{name}={path}")]
    server = start_server("--model-path", tiny_model, "--served-model-name", "base", *arguments).wait_until_ready()
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)

    def answer(name: str) -> tuple[str, str | None, int]:
        done = client.chat.completions.create(model=name, messages=MESSAGES, temperature=0, max_tokens=NUM_TOKENS)
        details = done.usage.prompt_tokens_details if done.usage else None
        return done.model, done.choices[0].message.content, (details.cached_tokens or 0) if details else -1

    prompt = list(load_tokenizer(tiny_model).apply_chat_template(MESSAGES, add_generation_prompt=True))
    expected = {name: library_answer(tiny_model, path, prompt, NUM_TOKENS) for name, path in adapters.items()}
    with ThreadPoolExecutor() as threads:
        first = list(threads.map(answer, ["base", *adapters]))
    assert [(name, cached) for name, _, cached in first] == [("base", 0), ("support", 0), ("sql/v2", 0)]
    assert [text for _, text, _ in first[1:]] == list(expected.values())
    assert len({text for _, text, _ in first}) == 3
    assert [answer(name)[:2] for name in ("base", *adapters)] == [one[:2] for one in first]
    streamed = client.chat.completions.create(
        model="support", messages=MESSAGES, temperature=0, max_tokens=NUM_TOKENS, stream=True
    )
    chunks = list(streamed)
    assert {chunk.model for chunk in chunks} == {"support"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected["support"]

    shown = {model.id: model.to_dict() for model in client.models.list()}
    assert [(one["root"], one["parent"], one["adapter"]) for one in shown.values()] == [
        ("base", None, None),
        ("support-folder", "base", "support-folder"),
        ("sql-folder", "base", "sql-folder"),
    ]
    assert client.models.retrieve("sql/v2").id == "sql/v2"
    with pytest.raises(openai.NotFoundError, match=r"'other' is not served here; this server has 'base', 'support'"):
        answer("other")
    anthropic = server.get("/anthropic/v1/models").json()["data"]
    assert [model["id"] for model in anthropic] == list(shown)

    several = client.completions.create(model="sql/v2", prompt=[prompt, prompt], temperature=0, max_tokens=NUM_TOKENS)
    assert [choice.text for choice in several.choices] == [expected["sql/v2"]] * 2
    counted = zip(shown, (2, 3, 3), strict=True)
    prompts = [f'mlx_server_model_prompts_total{{model="{name}"}} {count}' for name, count in counted]

    def is_counted() -> bool:
        lines = server.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("mlx_server_model_prompts_total{")] == prompts

    eventually(is_counted, "what was asked of each")
    stats = server.get("/v1/queue/stats").json()
    assert list(stats["models"]) == ["base"]
    assert stats["models"]["base"]["completed_requests"] == 9
    assert stats["models"]["base"]["recent"]["num_requests"] == 8
    assert list(server.get("/v1/cache/stats?model=support").json()["models"]) == ["base"]


def test_an_adapter_is_loaded_with_its_base_and_unloaded_with_it_only(
    start_server: StartServer, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "mine", tiny_model, 1)
    server = start_server(
        *("--model-path", tiny_model, "--served-model-name", "base", "--on-demand", "--adapter", f"mine={adapter}")
    ).wait_until_ready()

    def states() -> set[str]:
        return {model["status"] for model in server.get("/v1/models").json()["data"]}

    loaded = server.post({"model": "mine"}, "/v1/models/load").json()
    assert (loaded["id"], loaded["status"], loaded["parent"]) == ("mine", "ready", "base")
    assert states() == {"ready"}
    refused = server.post({"model": "mine"}, "/v1/models/unload")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "'mine' is an adapter of 'base' and in memory together with it; unload that one."
    )
    assert states() == {"ready"}
    assert server.post({"model": "base"}, "/v1/models/unload").status_code == 200
    assert states() == {"unloaded"}


def test_one_that_cannot_be_used_is_named_when_it_is_asked_for(
    start_server: StartServer, tiny_model: Path, tmp_path: Path
) -> None:
    arguments = ("--model-path", tiny_model, "--served-model-name", "base", "--on-demand")
    server = start_server(*arguments, "--adapter", f"gone={tmp_path / 'nowhere'}").wait_until_ready()
    body = {"model": "gone", "messages": MESSAGES, "max_tokens": 2}
    refused = server.post(body)
    assert refused.status_code == 503
    assert f"The adapter 'gone' ('{tmp_path / 'nowhere'}') is no folder" in refused.json()["error"]["message"]
