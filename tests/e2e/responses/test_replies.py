"""POST /v1/responses, in one piece and as a stream."""

import os
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.e2e.processes import ServerProcess
from tests.e2e.responses.asking import ENDLESS, FOX, GREEDY, end_of, greedy, open_client
from tests.e2e.wire import END_TOKEN


class TestReply:
    def test_has_what_openai_documents(self, client: OpenAI) -> None:
        reply = client.responses.create(**GREEDY, metadata={"k": "v"}, instructions="Be brief.", user="me")
        assert reply.id.startswith("resp_")
        assert (reply.object, reply.model, reply.status) == ("response", "any", "incomplete")
        assert reply.incomplete_details is not None
        assert reply.incomplete_details.reason == "max_output_tokens"
        (item,) = reply.output
        assert (item.type, item.status) == ("message", "incomplete")
        assert reply.output_text
        assert (reply.metadata, reply.instructions, reply.user) == ({"k": "v"}, "Be brief.", "me")
        assert reply.usage is not None
        assert (reply.usage.output_tokens, reply.usage.total_tokens) == (9, reply.usage.input_tokens + 9)

    def test_is_what_a_chat_says(self, client: OpenAI, server: ServerProcess) -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
        chat = server.post({"messages": messages, "max_tokens": 9, "temperature": 0}).json()
        reply = client.responses.create(**GREEDY, instructions="Be brief.")
        assert reply.output_text == chat["choices"][0]["message"]["content"]
        assert reply.usage is not None
        assert reply.usage.input_tokens == chat["usage"]["prompt_tokens"]

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncOpenAI, client: OpenAI) -> None:
        reply = await async_client.responses.create(**GREEDY)
        assert reply.output_text == client.responses.create(**GREEDY).output_text

    def test_ends_at_the_end_token(self, client: OpenAI) -> None:
        reply = client.responses.create(model="x", input="hello", extra_body={"logit_bias": {str(END_TOKEN): 100}})
        assert (reply.status, reply.output_text) == ("completed", "")
        assert reply.completed_at is not None
        assert len(reply.output) == 1

    def test_comes_without_the_prefix_too(self, server: ServerProcess) -> None:
        reply = server.post({"input": "hello", "max_output_tokens": 1}, "/responses").json()
        assert reply["model"] == "tiny/llama"
        assert server.get(f"/responses/{reply['id']}").json() == reply

    def test_keeps_to_a_schema(self, client: OpenAI) -> None:
        class Answer(BaseModel):
            colour: Literal["red", "green"]
            is_warm: bool

        parsed = client.responses.parse(model="x", input="hello", text_format=Answer, temperature=1)
        assert isinstance(parsed.output_parsed, Answer)
        with client.responses.stream(model="x", input="hello", text_format=Answer, temperature=1) as stream:
            assert isinstance(stream.get_final_response().output_parsed, Answer)

    def test_brings_logprobs(self, client: OpenAI) -> None:
        reply = client.responses.create(**GREEDY, include=["message.output_text.logprobs"], top_logprobs=2)
        (item,) = reply.output
        assert item.type == "message"
        (part,) = item.content
        assert part.type == "output_text"
        assert part.logprobs is not None
        assert b"".join(bytes(token.bytes) for token in part.logprobs).decode("utf-8", "replace") == part.text
        assert [len(token.top_logprobs) for token in part.logprobs] == [2] * 9

    @pytest.mark.parametrize(
        "fields",
        [
            {"input": [{"type": "message", "role": "user", "content": "Say hello in exactly 3 words."}]},
            {
                "input": [
                    {"type": "message", "role": "system", "content": "You are a pirate."},
                    {"type": "message", "role": "user", "content": "Say hello."},
                ]
            },
            {
                "input": [
                    {"type": "message", "role": "user", "content": "My name is Alice."},
                    {"type": "message", "role": "assistant", "content": "Hello Alice!", "phase": "commentary"},
                    {"type": "message", "role": "assistant", "content": "How are you?", "phase": "final_answer"},
                    {"type": "message", "role": "user", "content": "What is my name?"},
                ]
            },
        ],
    )
    @pytest.mark.parametrize("streams", [False, True])
    def test_answers_what_the_open_responses_tests_ask(
        self, client: OpenAI, fields: dict[str, Any], streams: bool
    ) -> None:
        asked: dict[str, Any] = {"model": "x", **fields, "extra_body": {"logit_bias": {str(END_TOKEN): 5}}}
        reply = (
            end_of(list(client.responses.create(**asked, stream=True))) if streams else client.responses.create(**asked)
        )
        assert reply.status == "completed"
        assert reply.output


class TestStream:
    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0},
            {"temperature": 1, "extra_body": {"seed": 3}},
            {"temperature": 0, "extra_body": {"stop": "o"}},
            {"temperature": 0, "include": ["message.output_text.logprobs"]},
            {"temperature": 0, "max_output_tokens": 1},
        ],
    )
    def test_ends_in_what_the_reply_in_one_piece_is(self, client: OpenAI, fields: dict[str, Any]) -> None:
        asked = greedy(max_output_tokens=60) | fields
        whole = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        last = end_of(events)
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
        )
        own = {"id", "created_at", "completed_at", "output"}
        assert last.model_dump(exclude=own) == whole.model_dump(exclude=own)
        assert [item.model_dump(exclude={"id"}) for item in last.output] == [
            item.model_dump(exclude={"id"}) for item in whole.output
        ]
        assert client.responses.retrieve(last.id) == last

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncOpenAI) -> None:
        async with async_client.responses.stream(**GREEDY) as stream:
            events = [event async for event in stream]
        assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
        assert events[-1].type == "response.incomplete"

    def test_fills_silence_with_events(self, single: ServerProcess, single_client: OpenAI) -> None:
        """Comments would not do: there are clients whose patience only events renew."""
        # Of so short a prompt no progress is told.
        stream = single_client.responses.create(model="x", input=FOX * 90, max_output_tokens=1, stream=True)
        kinds = [event.type.removeprefix("response.") for event in stream]
        num_silences = kinds.index("output_item.added") - 2
        assert num_silences > 1
        assert kinds[: num_silences + 2] == ["created", *["in_progress"] * (num_silences + 1)]

    def test_that_fails_says_so_and_nothing_else(self, client: OpenAI, tiny_model: Path, tmp_path: Path) -> None:
        with (
            ServerProcess(tmp_path, "--model-path", tiny_model) as server,
            open_client(server.wait_until_ready()) as own,
        ):
            stream = own.responses.create(**ENDLESS, stream=True)
            first = next(event for event in stream if event.type == "response.output_text.delta")
            (worker,) = server.workers()
            os.kill(worker, signal.SIGKILL)
            *_, last = stream
            assert last.type == "response.failed"
            assert (last.response.status, last.response.usage) == ("failed", None)
            assert last.response.error is not None
            assert "SIGKILL" in last.response.error.message
            assert last.response.output_text.startswith(first.delta)
            assert own.responses.retrieve(last.response.id) == last.response

    def test_of_a_client_that_left_is_ended_and_kept_as_cancelled(self, server: ServerProcess, client: OpenAI) -> None:
        stream = client.responses.create(**ENDLESS, stream=True)
        created = next(stream)
        assert created.type == "response.created"
        next(event for event in stream if event.type == "response.output_text.delta")
        assert client.responses.retrieve(created.response.id).status == "in_progress"
        stream.close()
        server.wait_until_idle()
        left = client.responses.retrieve(created.response.id)
        assert left.status == "cancelled"
        assert left.output_text
