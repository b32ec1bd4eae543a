"""POST /v1/chat/completions through OpenAI's own client, which is told to accept nothing but what OpenAI documents."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, Call, chat

GOLDEN = Path(__file__).parent / "golden"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as opened:
        yield opened


def byte_tokens(model: Path, text: str) -> dict[str, int]:
    """A bias that leaves the model nothing to say but the bytes of `text`, one at a time and in any order."""
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return {str(vocabulary[alphabet[byte]]): 100 for byte in text.encode()}


def text_of(reply: ChatCompletion) -> str:
    content = reply.choices[0].message.content
    assert content is not None
    return content


def joined(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def reason_of(chunks: list[ChatCompletionChunk]) -> str:
    (reason,) = {choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    return reason


class TestReply:
    def test_has_what_openai_documents(self, client: OpenAI) -> None:
        reply = client.chat.completions.create(model="any-name", messages=HELLO, max_tokens=5, temperature=0)
        assert reply.id.startswith("chatcmpl-")
        assert reply.object == "chat.completion"
        assert reply.model == "any-name"
        (choice,) = reply.choices
        assert (choice.index, choice.message.role, choice.message.refusal) == (0, "assistant", None)
        assert choice.finish_reason == "length"
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 5
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5
        assert reply.usage.prompt_tokens_details is not None

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncOpenAI, client: OpenAI) -> None:
        reply = await async_client.chat.completions.create(model="x", messages=HELLO, max_tokens=5, temperature=0)
        assert text_of(reply) == text_of(
            client.chat.completions.create(model="x", messages=HELLO, max_tokens=5, temperature=0)
        )

    def test_names_the_served_model_where_the_request_names_none(self, server: ServerProcess) -> None:
        assert server.post(chat(max_tokens=1)).json()["model"] == "tiny/llama"

    def test_comes_without_the_prefix_too(self, server: ServerProcess) -> None:
        reply = server.post(chat(), "/chat/completions").json()
        assert reply["choices"] == server.post(chat()).json()["choices"]

    def test_ends_at_the_end_token(self, client: OpenAI) -> None:
        reply = client.chat.completions.create(model="x", messages=HELLO, logit_bias={"2": 100}, temperature=0)
        assert (text_of(reply), reply.choices[0].finish_reason) == ("", "stop")
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 1

    @pytest.mark.parametrize(
        ("limits", "length"),
        [
            ({"max_completion_tokens": 3}, 3),
            ({"max_tokens": 4}, 4),
            ({"max_completion_tokens": 3, "max_tokens": 9}, 3),
        ],
    )
    def test_is_as_long_as_asked(self, server: ServerProcess, limits: dict[str, int], length: int) -> None:
        body = {key: value for key, value in chat().items() if key != "max_tokens"} | limits
        assert server.post(body).json()["usage"]["completion_tokens"] == length

    def test_with_a_seed_repeats_and_without_the_seed_differs(self, server: ServerProcess) -> None:
        def text(**fields: object) -> str:
            return server.post(chat(temperature=1, max_tokens=24, **fields)).json()["choices"][0]["message"]["content"]

        assert text(seed=5) == text(seed=5)
        assert len({text(seed=seed) for seed in range(4)} | {text(), text()}) == 6


class TestMessages:
    def test_of_the_developer_are_the_systems(self, server: ServerProcess) -> None:
        system, developer = (
            server.post(chat() | {"messages": [{"role": role, "content": "Be brief."}, *HELLO]}).json()
            for role in ("system", "developer")
        )
        assert system["choices"] == developer["choices"]
        assert system["choices"] != server.post(chat("hello")).json()["choices"]

    def test_in_parts_are_their_text(self, server: ServerProcess) -> None:
        parts = [{"type": "text", "text": "the quick"}, {"type": "text", "text": " brown fox"}]
        reply = server.post(chat() | {"messages": [{"role": "user", "content": parts}]}).json()
        assert reply["choices"] == server.post(chat("the quick brown fox")).json()["choices"]

    def test_come_in_any_order(self, server: ServerProcess) -> None:
        roles = ("assistant", "assistant", "user", "system", "user", "user", "assistant")
        messages = [{"role": role, "content": f"{number}"} for number, role in enumerate(roles)]
        assert server.post(chat() | {"messages": messages}).status_code == 200

    def test_are_rendered_with_the_templates_arguments(self, tiny_model: Path, start_server: StartServer) -> None:
        template = tiny_model.parent / "counting.jinja"
        template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}{{ '<|endoftext|>' * (extra or 0) }}")
        server = start_server("--model-path", tiny_model, "--chat-template-file", template).wait_until_ready()

        def prompt_tokens(**fields: object) -> int:
            return server.post(chat(max_tokens=1, **fields)).json()["usage"]["prompt_tokens"]

        assert prompt_tokens(chat_template_kwargs={"extra": 7}) == prompt_tokens() + 7


class TestStream:
    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0},
            {"temperature": 1, "seed": 3},
            {"temperature": 1, "seed": 4, "top_p": 0.9, "presence_penalty": 1, "extra_body": {"top_k": 50}},
            {"temperature": 0, "stop": "o"},
            {"temperature": 0, "stop": ["zzz", "or"]},
            {"temperature": 0, "max_tokens": 1},
        ],
    )
    def test_says_what_the_reply_in_one_piece_says(self, client: OpenAI, fields: dict[str, Any]) -> None:
        request: dict[str, Any] = {"model": "x", "messages": HELLO, "max_tokens": 60, **fields}
        whole = client.chat.completions.create(**request)
        chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        assert joined(chunks) == text_of(whole)
        assert reason_of(chunks) == whole.choices[0].finish_reason
        assert chunks[-1].usage == whole.usage
        assert chunks[-1].choices == []
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert {chunk.id for chunk in chunks} == {chunks[0].id}

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncOpenAI) -> None:
        stream = await async_client.chat.completions.create(
            model="named", messages=HELLO, max_tokens=9, temperature=0, stream=True
        )
        chunks = [chunk async for chunk in stream]
        whole = await async_client.chat.completions.create(model="x", messages=HELLO, max_tokens=9, temperature=0)
        assert joined(chunks) == text_of(whole)
        assert all(chunk.usage is None and chunk.model == "named" for chunk in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].delta.role for chunk in chunks[1:]] == [None] * (len(chunks) - 1)

    @pytest.mark.parametrize("characters", ["\N{GRINNING FACE}", "\u4f60", "\u00e9\u4e16\U0001f680"])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_cuts_no_character(self, client: OpenAI, tiny_model: Path, characters: str, seed: int) -> None:
        """Each token is one byte: characters are complete only now and then, and never at a token's end alone."""
        request: dict[str, Any] = {
            "model": "x",
            "messages": HELLO,
            "max_tokens": 250,
            "temperature": 2,
            "seed": seed,
            "logit_bias": byte_tokens(tiny_model, characters),
        }
        text = text_of(client.chat.completions.create(**request))
        assert "\ufffd" in text
        assert any(ord(character) > 127 for character in text.replace("\ufffd", ""))
        assert joined(list(client.chat.completions.create(**request, stream=True))) == text

    def test_has_the_headers_and_the_lines_of_server_sent_events(self, server: ServerProcess) -> None:
        with Call(server, chat(stream=True), headers={"X-Request-ID": "my-own-id"}) as call:
            assert call.status == 200
            assert call.header("Content-Type") == "text/event-stream; charset=utf-8"
            assert call.header("Cache-Control") == "no-cache"
            assert call.header("Connection") == "keep-alive"
            assert call.header("X-Accel-Buffering") == "no"
            assert call.header("X-Request-ID") == "my-own-id"
            assert float(call.header("X-Process-Time") or -1) >= 0
            first, *_, last = call.events()
        assert json.loads(first)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert last == "[DONE]"

    @pytest.mark.parametrize("name", ["stream", "stream_with_usage", "error"])
    def test_is_the_golden_transcript(self, server: ServerProcess, name: str) -> None:
        """Byte for byte, but for ids and times. The text does not depend on the weights: one token is wanted."""
        bias = {"logit_bias": {"70": 100}, "max_tokens": 3}
        fields = {
            "stream": {},
            "stream_with_usage": {"stream_options": {"include_usage": True}},
            "error": {"temperature": "hot"},
        }
        with Call(server, chat("hello", stream=True, model="tiny", **bias | fields[name])) as call:
            transcript = call.response.read().decode()
        transcript = re.sub(r"chatcmpl-[0-9a-f]{28}", "chatcmpl-ID", transcript)
        transcript = re.sub(r"req_[0-9a-f]{24}", "req_ID", transcript)
        transcript = re.sub(r'"cached_tokens":\d+', '"cached_tokens":COUNT', transcript)
        transcript = re.sub(r'"created":\d{10}', '"created":TIME', transcript)
        assert transcript == (GOLDEN / f"chat_{name}.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def said(client: OpenAI) -> list[str]:
    """The pieces of a greedy answer, one per token but where a character was not complete."""
    chunks = client.chat.completions.create(model="x", messages=HELLO, max_tokens=40, temperature=0, stream=True)
    return [text for chunk in chunks if (text := chunk.choices[0].delta.content)]


class TestStops:
    """Stop strings are taken from what the model says without any, so that each of them does occur."""

    def check(self, client: OpenAI, said: list[str], stop: str | list[str], matched: str) -> None:
        whole = "".join(said)
        request: dict[str, Any] = {"model": "x", "messages": HELLO, "max_tokens": 40, "temperature": 0, "stop": stop}
        reply = client.chat.completions.create(**request)
        assert text_of(reply) == whole[: whole.index(matched)]
        assert reply.choices[0].finish_reason == "stop"
        chunks = list(client.chat.completions.create(**request, stream=True))
        assert joined(chunks) == text_of(reply)
        assert reason_of(chunks) == "stop"

    def test_inside_a_token(self, client: OpenAI, said: list[str]) -> None:
        piece = next(piece for piece in said[3:] if len(piece) > 3)
        self.check(client, said, piece[1:3], piece[1:3])

    def test_across_tokens(self, client: OpenAI, said: list[str]) -> None:
        stop = said[4][-1] + said[5] + said[6][0]
        self.check(client, said, stop, stop)

    def test_of_a_list_the_first_that_comes(self, client: OpenAI, said: list[str]) -> None:
        later, sooner = said[12] + said[13], said[7] + said[8]
        self.check(client, said, [later, "never said", sooner], sooner)

    def test_that_begins_and_does_not_go_on_is_text(self, client: OpenAI, said: list[str]) -> None:
        whole = "".join(said)
        request: dict[str, Any] = {"model": "x", "messages": HELLO, "max_tokens": 40, "temperature": 0}
        stop = [said[5] + said[6] + "\x00", said[-1] + "\x00"]
        assert text_of(client.chat.completions.create(**request, stop=stop)) == whole
        assert joined(list(client.chat.completions.create(**request, stop=stop, stream=True))) == whole


class TestRequestIds:
    @pytest.mark.parametrize("given", ["abc", "0b0e7f0e-8f7a-4d4e-9d1c-3d3f0a9c8b7a", "a.b_c:d/e+f=g@h-i", "x" * 128])
    def test_of_the_client_are_kept(self, server: ServerProcess, given: str) -> None:
        reply = server.post(chat(max_tokens=1), **{"X-Request-ID": given})
        assert reply.headers["X-Request-ID"] == given
        assert float(reply.headers["X-Process-Time"]) > 0
        eventually(lambda: f" {given} POST /v1/chat/completions 200 " in server.log(), "the access line")

    @pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "a\tb", "{}"])
    def test_that_could_do_harm_are_replaced(self, server: ServerProcess, given: str) -> None:
        reply = server.get("/v1/nothing", **{"X-Request-ID": given})
        assert re.fullmatch(r"req_[0-9a-f]{24}", reply.headers["X-Request-ID"])
        assert reply.json()["request_id"] == reply.headers["X-Request-ID"]

    def test_are_given_to_every_request(self, server: ServerProcess) -> None:
        replies = [server.get("/health"), server.get("/"), server.get("/nothing"), server.send("OPTIONS", CHAT)]
        assert len({reply.headers["X-Request-ID"] for reply in replies}) == 4
        assert all("X-Process-Time" in reply.headers for reply in replies)


def test_errors_are_the_clients_own_classes(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="x", messages=HELLO, temperature=5)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")
    assert caught.value.request_id
    with pytest.raises(NotFoundError):
        client.models.retrieve("no/such/model")


def test_a_real_model_knows_the_capital_of_france(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = start_server("--cache-dir", tmp_path_factory.mktemp("cache"), "--no-mlx-warmup").wait_until_ready()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True) as client:
        stream = client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
        assert "Paris" in joined(list(stream))
