"""POST /v1/tokenize and /v1/detokenize, in vLLM's shapes."""

from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call, chat, endless

TEXT = "the quick brown fox"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def tokenized(server: ServerProcess, path: str = "/v1/tokenize", /, **body: Any) -> dict[str, Any]:
    reply = server.post(body, path)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_there_and_back_again(server: ServerProcess, prefix: str) -> None:
    answer = tokenized(server, f"{prefix}/tokenize", prompt=TEXT, return_token_strs=True, model="any")
    assert answer.keys() == {"count", "max_model_len", "tokens", "token_strs"}
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 131_072
    assert "".join(answer["token_strs"]).replace("\u0120", " ") == TEXT
    back = server.post({"tokens": answer["tokens"], "model": "any"}, f"{prefix}/detokenize")
    assert back.json() == {"prompt": TEXT}
    assert tokenized(server, prompt=TEXT)["token_strs"] is None


def test_a_conversation_counts_what_a_chat_completion_counts(server: ServerProcess) -> None:
    conversation = chat(TEXT, chat_template_kwargs={"x": 1})
    answer = tokenized(server, **conversation)
    assert answer["count"] == server.post(conversation).json()["usage"]["prompt_tokens"]
    rendered = server.post({"tokens": answer["tokens"]}, "/v1/detokenize").json()["prompt"]
    assert rendered == f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
    closed = tokenized(server, **conversation, add_generation_prompt=False)
    rendered = server.post({"tokens": closed["tokens"]}, "/v1/detokenize").json()["prompt"]
    assert rendered == f"<|im_start|>user\n{TEXT}<|im_end|>\n"


def test_tools_are_counted(server: ServerProcess) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}]}
    with_tools = tokenized(server, **asked, tools=[TOOL])
    assert with_tools["count"] > tokenized(server, **asked)["count"]
    assert "look" in server.post({"tokens": with_tools["tokens"]}, "/v1/detokenize").json()["prompt"]


def test_who_generates_is_not_waited_for(server: ServerProcess) -> None:
    with ExitStack() as stack:
        for _ in range(17):
            stack.enter_context(Call(server, endless()))
        server.wait_for_load(active=16, waiting=1)
        assert tokenized(server, prompt=TEXT)["count"] > 0
        server.wait_for_load(active=16, waiting=1)
    server.wait_until_idle()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": 1}, "prompt"),
        ("tokenize", {"prompt": ["a"]}, "prompt"),
        ("tokenize", {"messages": []}, "messages"),
        ("tokenize", {"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
        ("tokenize", {"messages": chat()["messages"], "continue_final_message": True}, "messages"),
        ("tokenize", {"messages": chat()["messages"], "add_special_tokens": True}, "add_special_tokens"),
        ("tokenize", {"messages": chat()["messages"], "chat_template": "x"}, "chat_template"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
        ("detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("detokenize", {"tokens": [2**40]}, "tokens[0]"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
    ],
)
def test_what_is_wrong_is_named(server: ServerProcess, path: str, body: dict[str, Any], param: str) -> None:
    reply = server.post(body, f"/v1/{path}")
    assert reply.status_code == 400
    assert (reply.json()["error"]["type"], reply.json()["error"]["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("path", ["/v1/tokenize", "/v1/detokenize"])
@pytest.mark.parametrize("content", [b"", b"[]", b"nothing", b"{"])
def test_what_is_no_object(server: ServerProcess, path: str, content: bytes) -> None:
    assert server.send("POST", path, content).status_code == 400


def test_more_than_the_context_is_counted(server: ServerProcess) -> None:
    answer = tokenized(server, prompt="word " * 80_000)
    assert answer["count"] > answer["max_model_len"]
    reply = server.post({"tokens": answer["tokens"]}, "/v1/detokenize")
    assert reply.json()["prompt"] == "word " * 80_000
