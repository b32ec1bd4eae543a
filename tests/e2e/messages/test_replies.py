"""/v1/messages: replies in one piece and as streams."""

import json
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message

from tests.e2e.messages.asking import (
    FOX,
    GREEDY,
    HELLO,
    KEY,
    MESSAGES,
    ask,
    open_client,
    prompt_tokens,
    text_of,
)
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call


class TestReply:
    def test_has_what_anthropic_documents(self, client: Anthropic) -> None:
        reply = ask(client, model="any-name", max_tokens=5)
        assert reply.id.startswith("msg_")
        assert (reply.type, reply.role, reply.model) == ("message", "assistant", "any-name")
        assert (reply.stop_reason, reply.stop_sequence) == ("max_tokens", None)
        assert text_of(reply)
        assert reply.usage.output_tokens == 5
        assert reply._request_id is not None

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncAnthropic, client: Anthropic) -> None:
        reply = await async_client.messages.create(model="x", messages=HELLO, max_tokens=9, extra_body=GREEDY)
        assert text_of(reply) == text_of(ask(client))

    def test_comes_to_the_client_of_betas(self, client: Anthropic) -> None:
        edits: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
        reply = client.beta.messages.create(
            model="x",
            messages=HELLO,
            max_tokens=9,
            betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
            context_management=edits,
            extra_body=GREEDY,
        )
        assert reply.content[0].to_dict() == ask(client).content[0].to_dict()

    def test_goes_on_with_what_the_client_has_begun(self, client: Anthropic) -> None:
        begun: list[Any] = [*HELLO, {"role": "assistant", "content": "The answer is"}]
        reply = ask(client, messages=begun)
        assert text_of(reply)
        assert not text_of(reply).startswith("The answer is")
        assert prompt_tokens(reply) == client.messages.count_tokens(model="x", messages=begun).input_tokens

    def test_comes_below_another_address_too(self, server: ServerProcess, client: Anthropic) -> None:
        with open_client(server, "/anthropic") as other:
            assert text_of(ask(other)) == text_of(ask(client))
            assert other.messages.count_tokens(model="x", messages=HELLO) == client.messages.count_tokens(
                model="x", messages=HELLO
            )

    def test_names_the_served_model_where_the_request_names_none(self, server: ServerProcess) -> None:
        assert server.post({"messages": HELLO, "max_tokens": 1}, MESSAGES).json()["model"] == "tiny/llama"

    def test_is_that_of_a_chat(self, server: ServerProcess, client: Anthropic) -> None:
        messages = [{"role": "system", "content": "Be brief."}, *HELLO]
        chat = server.post({"messages": messages, "max_tokens": 9, **GREEDY}).json()
        reply = ask(client, system="Be brief.")
        assert text_of(reply) == chat["choices"][0]["message"]["content"]
        assert prompt_tokens(reply) == chat["usage"]["prompt_tokens"]

    def test_keeps_to_a_schema(self, client: Anthropic) -> None:
        schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
        config: Any = {"format": {"type": "json_schema", "schema": schema}}
        reply = ask(client, output_config=config, max_tokens=99)
        assert json.loads(text_of(reply))["n"] in {1, 2}
        assert reply.stop_reason == "end_turn"


class TestStream:
    @pytest.mark.parametrize("fields", [{}, {"max_tokens": 60}, {"max_tokens": 60, "stop_sequences": ["o"]}])
    def test_says_what_the_reply_in_one_piece_says(self, client: Anthropic, fields: dict[str, Any]) -> None:
        asked: dict[str, Any] = {"model": "x", "messages": HELLO, "max_tokens": 9, "extra_body": GREEDY, **fields}
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == "".join(getattr(block, "text", "") for block in whole.content)
            final = Message.model_validate(stream.get_final_message().to_dict())
        assert prompt_tokens(final) == prompt_tokens(whole)
        assert (final.content, final.stop_reason) == (whole.content, whole.stop_reason)
        assert (final.stop_sequence, final.usage.output_tokens) == (whole.stop_sequence, whole.usage.output_tokens)

    async def test_comes_to_the_asynchronous_client(self, async_client: AsyncAnthropic, client: Anthropic) -> None:
        async with async_client.messages.stream(model="x", messages=HELLO, max_tokens=9, extra_body=GREEDY) as stream:
            assert await stream.get_final_text() == text_of(ask(client))
            assert stream.request_id is not None

    def test_has_its_events_in_order(self, server: ServerProcess) -> None:
        body = {"messages": HELLO, "max_tokens": 3, "stream": True, **GREEDY}
        with Call(server, body, f"{MESSAGES}?beta=true", {"X-Request-ID": "my-own-id"}) as call:
            assert call.header("Content-Type") == "text/event-stream; charset=utf-8"
            assert call.header("request-id") == call.header("X-Request-ID") == "my-own-id"
            frames = call.response.read().decode().removesuffix("\n\n").split("\n\n")
        names = [frame.partition("\n")[0].removeprefix("event: ") for frame in frames]
        events = [json.loads(frame.partition("\ndata: ")[2]) for frame in frames]
        assert [event["type"] for event in events] == names
        deltas = names[3:-3]
        assert set(deltas) == {"content_block_delta"}
        assert names[:3] == ["message_start", "ping", "content_block_start"]
        assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]

    def test_counts_the_prompt_before_it_answers(self, client: Anthropic) -> None:
        count = client.messages.count_tokens(model="x", messages=HELLO).input_tokens
        with client.messages.stream(model="x", messages=HELLO, max_tokens=1) as stream:
            first = next(iter(stream))
            assert first.type == "message_start"
            assert prompt_tokens(first.message) == count

    def test_is_kept_alive_by_pings(self, guarded: ServerProcess) -> None:
        """A long prompt is read for seconds; a comment would not do, as clients wait for events."""
        body = {
            "model": "slow",
            "messages": [{"role": "user", "content": FOX * 150}],
            "max_tokens": 1,
            "stream": True,
        }
        with Call(guarded, body, MESSAGES, {"x-api-key": KEY}) as call:
            frames = call.response.read().split(b"\n\n")
        until_text = next(index for index, frame in enumerate(frames) if b"content_block_start" in frame)
        assert until_text > 3
        assert set(frames[1:until_text]) == {b'event: ping\ndata: {"type":"ping"}'}
        assert frames[-2] == b'event: message_stop\ndata: {"type":"message_stop"}'


class TestStopSequences:
    def test_are_named_when_they_end_the_answer(self, client: Anthropic) -> None:
        whole = text_of(ask(client, max_tokens=40))
        stop = whole[7:9]
        reply = ask(client, max_tokens=40, stop_sequences=["never said", stop])
        assert "".join(getattr(block, "text", "") for block in reply.content) == whole[: whole.index(stop)]
        assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", stop)


class TestCountTokens:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"system": "Be brief."},
            {"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {"messages": [*HELLO, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": FOX}]},
        ],
    )
    def test_is_what_the_reply_says(self, client: Anthropic, fields: dict[str, Any]) -> None:
        asked: dict[str, Any] = {"model": "x", "messages": HELLO, **fields}
        count = client.messages.count_tokens(**asked)
        assert count.to_dict() == {"input_tokens": prompt_tokens(client.messages.create(max_tokens=1, **asked))}


def test_a_line_that_changes_with_every_request_does_not_spoil_the_cache(client: Anthropic) -> None:
    """Claude Code puts one before its system prompt; what follows is reused all the same."""

    def reply(number: int) -> Message:
        line = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.{number}; cch={number:05};"}
        system: Any = [line, {"type": "text", "text": FOX * 60, "cache_control": {"type": "ephemeral"}}]
        return ask(client, system=system, max_tokens=1)

    first, second = reply(1), reply(22)
    assert prompt_tokens(first) == prompt_tokens(second) > 500
    assert second.usage.cache_read_input_tokens == prompt_tokens(second) - second.usage.input_tokens
    assert second.usage.input_tokens < 10
