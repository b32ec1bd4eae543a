"""Messages that make no conversation, and bodies that make no request."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.bad_requests.refusal import HEAD, assert_refused
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, chat, exchange


class TestMessages:
    @pytest.mark.parametrize(
        ("messages", "param", "says"),
        [
            ([], "messages", "at least 1"),
            (None, "messages", "array"),
            ({}, "messages", "array"),
            ("hello", "messages", "array"),
            ([5], "messages[0]", "object"),
            ([{}], "messages[0].role", "required"),
            ([{"content": "hello"}], "messages[0].role", "required"),
            ([{"role": "user"}], "messages[0].content", "missing"),
            ([{"role": "user", "content": None}], "messages[0].content", "missing"),
            ([{"role": "user", "content": 5}], "messages[0].content", "string"),
            ([{"role": "user", "content": [5]}], "messages[0].content[0]", "object"),
            ([{"role": "user", "content": [{"text": "hello"}]}], "messages[0].content[0].type", "required"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "text"),
            ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text", "string"),
            ([{"role": "user", "content": "hello", "name": 5}], "messages[0].name", "string"),
            ([{"role": "wizard", "content": "hello"}], "messages[0].role", "wizard"),
            ([{"role": "tool", "content": "4", "tool_call_id": "1"}], "messages", "no assistant message makes"),
            ([{"role": "tool", "content": "4"}], "messages[0].tool_call_id", "needs"),
            ([{"role": "function", "content": "4", "name": "f"}], "messages[0].role", "'function'"),
            (
                [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "", "tool_calls": [{}]}],
                "messages[1].tool_calls[0].id",
                "required",
            ),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
                "messages[0].content[0].image_url",
                "no data: URL of base64",
            ),
        ],
    )
    def test_are_refused_by_their_place(self, server: ServerProcess, messages: object, param: str, says: str) -> None:
        assert_refused(server.post({"messages": messages}), says, param=param)

    def test_are_required(self, server: ServerProcess) -> None:
        assert_refused(server.post({}), "required", param="messages", code="missing_required_parameter")

    def test_of_ten_megabytes_do_not_fit(self, server: ServerProcess) -> None:
        reply = server.post(chat("the quick " * 1_000_000))
        assert_refused(reply, "131072", param="messages", code="context_length_exceeded")

    def test_over_the_context_are_counted(self, server: ServerProcess) -> None:
        # A line is always one token, and never a part of another.
        reply = server.post(chat("<|endoftext|>" * 131_072))
        assert_refused(reply, "131072", param="messages", code="context_length_exceeded")
        count = server.post(chat("", max_tokens=1)).json()["usage"]["prompt_tokens"] + 131_072
        assert str(count) in reply.json()["error"]["message"]

    def test_that_fill_the_context_leave_the_room_that_is_left(self, server: ServerProcess) -> None:
        around = server.post(chat("", max_tokens=1)).json()["usage"]["prompt_tokens"]
        reply = server.post(chat("<|endoftext|>" * (131_072 - around)))
        assert_refused(reply, "131072", param="messages", code="context_length_exceeded")


def with_argument(value: str) -> bytes:
    """A request with an argument for the template, in JSON that Python itself would not write."""
    return json.dumps(chat(max_tokens=1, chat_template_kwargs={"argument": "HERE"})).replace('"HERE"', value).encode()


class TestBodies:
    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "empty_body"),
            (b" \n ", "empty_body"),
            (b"{", "invalid_json"),
            (b'{"messages": [', "invalid_json"),
            (b'{"messages": }', "invalid_json"),
            (b"{'messages': []}", "invalid_json"),
            (b'{"messages": []} trailing', "invalid_json"),
            (b"hello", "invalid_json"),
            (b"\x00", "invalid_json"),
            (b"\x1f\x8b\x08\x00 compressed", "invalid_json"),
            (json.dumps(chat()).encode("utf-16"), "invalid_json"),
            (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "invalid_json"),
            (b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', "invalid_json"),
            (rb'{"messages":[{"role":"user","content":"\ud800"}]}', "invalid_json"),
            (rb'{"messages":[{"role":"user","content":"\udc00\ud800"}]}', "invalid_json"),
            (rb'{"model":"\ud800","messages":[{"role":"user","content":"hello"}]}', "invalid_json"),
            (b"[]", "invalid_type"),
            (b"5", "invalid_type"),
            (b"null", "invalid_type"),
            (b'"hello"', "invalid_type"),
        ],
    )
    def test_that_are_no_object_are_refused(self, server: ServerProcess, content: bytes, code: str) -> None:
        assert_refused(server.send("POST", CHAT, content), "body", code=code)

    @pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")], ids=["lists", "objects"])
    def test_nested_too_deeply_are_refused(self, server: ServerProcess, brackets: tuple[str, str]) -> None:
        opening, closing = brackets
        nested = opening * 100_000 + ("5" if closing == "}" else "") + closing * 100_000
        assert_refused(server.send("POST", CHAT, with_argument(nested)), "body", code="invalid_json")

    @pytest.mark.parametrize("depth", [50, 100, 150, 190])
    def test_nested_deeply_reach_the_template(self, server: ServerProcess, depth: int) -> None:
        content = with_argument("[" * depth + "]" * depth)
        assert server.send("POST", CHAT, content).status_code == 200

    def test_of_any_content_type_are_read(self, server: ServerProcess) -> None:
        content = json.dumps(chat(max_tokens=1)).encode()
        assert server.send("POST", CHAT, content, **{"Content-Type": "text/plain"}).status_code == 200

    def test_announced_too_large_are_refused_before_they_are_sent(self, server: ServerProcess) -> None:
        reply = exchange(server, HEAD + b"Content-Length: 5368709120\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 413 ")
        assert b"--max-body-size" in reply

    def test_that_grow_too_large_are_refused_on_the_way(self, server: ServerProcess) -> None:
        def pieces() -> Iterator[bytes]:
            for _ in range(18):
                yield b" " * 2**20

        with httpx.Client(trust_env=False) as client:
            reply = client.post(f"{server.url}{CHAT}", content=pieces())
        assert_refused(reply, "16777216", status=413, code="request_too_large")

    def test_cut_short_by_the_client_are_no_error_of_ours(self, server: ServerProcess) -> None:
        head = HEAD + b"X-Request-ID: cut-short\r\nContent-Length: 100\r\n\r\n"
        assert exchange(server, head + b'{"messages": [') == b""
        eventually(lambda: "cut-short POST /v1/chat/completions 499" in server.log(), "the access line")
        assert "Traceback" not in server.log()
