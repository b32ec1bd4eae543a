"""Whatever a client sends: a 4xx that says what is wrong, and a server that serves on."""

import json
import random
import socket
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import httpx
import pytest

from app.schemas.chat import ChatCompletionRequest
from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.wire import CHAT, END_TOKEN, chat, exchange

FIELDS = ChatCompletionRequest.model_fields
# One value of each JSON type; none of them asks for nothing in a field that is not supported.
VALUES = (True, 7, 1.5, "text", [7], {"key": 7})


@pytest.fixture(autouse=True)
def _serves_on(server: ServerProcess) -> Iterator[None]:
    """After each test the server answers a good request and holds nothing of the bad ones."""
    yield
    assert server.post(chat(max_tokens=1)).status_code == 200
    server.wait_for_load(active=0, waiting=0)


def assert_refused(
    reply: httpx.Response, says: str = "", *, status: int = 400, param: str | None = None, code: str | None = None
) -> None:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == reply.headers["X-Request-ID"]
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert len(error["message"]) < 1000
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code


def json_types(annotation: Any) -> set[type]:
    """The Python types of the JSON values that a field takes; none where it takes anything, or nothing."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return {one for part in get_args(annotation) for one in json_types(part)}
    if origin is Annotated:
        return json_types(get_args(annotation)[0])
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if annotation in (Any, NoneType):
        return set()
    if annotation is float:
        return {int, float}
    plain = origin or annotation
    return {plain} if plain in (str, int, bool, list, dict) else {dict}


class TestFields:
    @pytest.mark.parametrize("field", FIELDS)
    def test_of_a_wrong_type_is_named(self, server: ServerProcess, field: str) -> None:
        accepted = json_types(FIELDS[field].annotation)
        for value in VALUES:
            if type(value) not in accepted:
                reply = server.post(chat() | {field: value})
                assert reply.status_code == 400, (field, value)
                assert_refused(reply, field, param=reply.json()["error"]["param"])
                assert reply.json()["error"]["param"].split("[")[0].split(".")[0] == field

    @pytest.mark.parametrize("field", [name for name, one in FIELDS.items() if {int} <= json_types(one.annotation)])
    def test_that_is_a_number_must_be_a_possible_one(self, server: ServerProcess, field: str) -> None:
        for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e30", "1" + 30 * "0", "-1" + 400 * "0"):
            content = json.dumps(chat() | {field: "NUMBER"}).replace('"NUMBER"', number)
            assert_refused(server.send("POST", CHAT, content.encode()), field, param=field)
        content = json.dumps(chat() | {field: "NUMBER"}).replace('"NUMBER"', "1" + 5000 * "0")
        assert_refused(server.send("POST", CHAT, content.encode()), "out of range", code="invalid_json")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.1),
            ("temperature", 2.1),
            ("top_p", 0),
            ("top_p", -1),
            ("top_p", 1.1),
            ("top_k", -1),
            ("min_p", -0.1),
            ("min_p", 1.1),
            ("repetition_penalty", 0),
            ("repetition_penalty", -1),
            ("presence_penalty", -2.1),
            ("frequency_penalty", 2.1),
            ("max_tokens", 0),
            ("max_tokens", -5),
            ("max_completion_tokens", 0),
            ("seed", 2**63),
            ("typical_p", 0),
            ("typical_p", 1.1),
            ("xtc_probability", -0.1),
            ("xtc_probability", 1.1),
            ("xtc_threshold", -0.1),
            ("xtc_threshold", 0.6),
            ("dry_multiplier", -1),
            ("dry_base", 0.9),
            ("dry_allowed_length", 0),
            ("dry_penalty_last_n", -2),
            ("repetition_guard", 1),
            ("repetition_guard", 1001),
            ("n", 0),
            ("n", -1),
            ("top_logprobs", -1),
            ("top_logprobs", 21),
        ],
    )
    def test_out_of_range_is_named(self, server: ServerProcess, field: str, value: float) -> None:
        assert_refused(server.post(chat() | {field: value}), f"'{field}'", param=field)

    @pytest.mark.parametrize(
        ("fields", "param", "says"),
        [
            ({"stop": ""}, "stop", "empty"),
            ({"stop": ["a", ""]}, "stop", "empty"),
            ({"stop": ["a", 5]}, "stop[1]", "string"),
            ({"stop": ["a"] * 65}, "stop", "64"),
            ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", "boolean"),
            ({"metadata": {"key": 5}}, "metadata.key", "string"),
            ({"logit_bias": {"fox": 1}}, "logit_bias", "token ids"),
            ({"logit_bias": {"5": 101}}, "logit_bias", "100"),
            ({"logit_bias": {"5": "x"}}, "logit_bias", "number"),
            ({"logit_bias": {"-1": 1}}, "logit_bias", "-1"),
            ({"logit_bias": {"999999": 1}}, "logit_bias", "999999"),
            ({"logit_bias": {"99999999999999999999": 1}}, "logit_bias", "99999999999999999999"),
            ({"dry_sequence_breakers": ["a", 5]}, "dry_sequence_breakers[1]", "string"),
            ({"dry_sequence_breakers": ["a", ""]}, "dry_sequence_breakers", "1 to 40"),
            ({"dry_sequence_breakers": ["a" * 41]}, "dry_sequence_breakers", "1 to 40"),
            ({"dry_sequence_breakers": ["a"] * 65}, "dry_sequence_breakers", "64"),
            ({"dry_sequence_breakers": '["a", 5]'}, "dry_sequence_breakers", "list of strings"),
            ({"dry_sequence_breakers": "a"}, "dry_sequence_breakers", "list of strings"),
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "'messages'"),
            ({"chat_template_kwargs": {"number": 10**30}}, "chat_template_kwargs", "ints"),
            ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs", "cannot set"),
        ],
    )
    def test_with_wrong_contents_is_named(
        self, server: ServerProcess, fields: dict[str, object], param: str, says: str
    ) -> None:
        assert_refused(server.post(chat() | fields), says, param=param)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("tool_choice", "required"),
            ("functions", [{"name": "f"}]),
            ("function_call", {"name": "f"}),
            ("reasoning_effort", "high"),
            ("store", True),
            ("modalities", ["audio"]),
            ("audio", {"voice": "alloy"}),
            ("prediction", {"type": "content", "content": "x"}),
            ("web_search_options", {}),
            ("verbosity", "low"),
            ("service_tier", "flex"),
        ],
    )
    def test_that_is_not_supported_is_never_ignored(self, server: ServerProcess, field: str, value: object) -> None:
        reply = server.post(chat() | {field: value})
        assert_refused(reply, f"'{field}' is not supported", param=field, code="unsupported_parameter")

    def test_that_nobody_knows_is_ignored(self, server: ServerProcess) -> None:
        assert server.post(chat(max_tokens=1, no_such_field={"a": [1]})).status_code == 200

    def test_that_asks_for_nothing_is_accepted(self, server: ServerProcess) -> None:
        nothing = {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "tool_choice": "none"}
        unset = {name: None for name in FIELDS if name != "messages"}
        assert server.post(chat(max_tokens=1) | nothing).status_code == 200
        assert server.post(chat() | unset | {"max_tokens": 1}).status_code == 200


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
            ([{"role": "tool", "content": "4", "tool_call_id": "1"}], "messages[0].role", "'tool'"),
            ([{"role": "function", "content": "4", "name": "f"}], "messages[0].role", "'function'"),
            (
                [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "", "tool_calls": [{}]}],
                "messages[1].tool_calls",
                "not supported",
            ),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
                "messages[0].content[0]",
                "'image_url'",
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


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


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


class TestRoutes:
    @pytest.mark.parametrize("path", ["/v1/nothing", "/v2/chat/completions", "/..%2f..%2fetc/passwd", "/%00", "/%ff"])
    def test_that_do_not_exist(self, server: ServerProcess, path: str) -> None:
        assert_refused(server.get(path), "/docs", status=404, code="not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", CHAT, "POST"),
            ("DELETE", CHAT, "POST"),
            ("PUT", "/v1/embeddings", "POST"),
            ("POST", "/v1/models", "GET"),
            ("POST", "/health", "GET"),
        ],
    )
    def test_with_another_method(self, server: ServerProcess, method: str, path: str, allowed: str) -> None:
        reply = server.send(method, path)
        assert_refused(reply, allowed, status=405, code="method_not_allowed")
        assert reply.headers["Allow"] == allowed

    def test_of_another_kind_of_model(self, server: ServerProcess) -> None:
        reply = server.post({"input": "hello"}, "/v1/embeddings")
        assert_refused(reply, "/v1/chat/completions", param="model")


REQUEST = json.dumps(chat(max_tokens=1)).encode()


class TestWire:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\x01\x02\x03\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"HELLO\r\n\r\n",
            b"BREW /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
            b"GET ?only=query HTTP/1.1\r\nHost: x\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            HEAD + b"Content-Length: -5\r\n\r\n",
            HEAD + b"Content-Length: five\r\n\r\n",
            HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
            HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        ],
    )
    def test_what_is_not_http_gets_a_400(self, server: ServerProcess, data: bytes) -> None:
        assert exchange(server, data).startswith(b"HTTP/1.1 4")

    def test_noise_harms_nobody(self, server: ServerProcess) -> None:
        draw = random.Random(7)
        head = HEAD + b"Content-Length: %d\r\n\r\n" % len(REQUEST)
        for _ in range(200):
            data = bytearray(head + REQUEST)
            for _ in range(draw.randrange(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            # Said to be longer than it is, it would be waited for.
            exchange(server, bytes(data))
        for size in range(0, len(head) + len(REQUEST), 7):
            exchange(server, (head + REQUEST)[:size])
        assert "Traceback" not in server.log()

    def test_a_request_id_of_other_bytes_is_replaced(self, server: ServerProcess) -> None:
        reply = exchange(server, b"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-ID: \xff\xe9\r\n\r\n")
        assert b"\r\nx-request-id: req_" in reply.lower()

    def test_two_requests_in_one_packet_get_two_answers(self, server: ServerProcess) -> None:
        head = HEAD + b"Content-Length: %d\r\n\r\n" % len(REQUEST)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall((head + REQUEST) * 2)
            received = b""
            while received.count(b'"finish_reason"') < 2:
                piece = connection.recv(65536)
                assert piece
                received += piece
        assert received.count(b"HTTP/1.1 200 OK") == 2


def test_the_end_token_is_what_the_tests_take_it_for(server: ServerProcess) -> None:
    reply = server.post(chat(logit_bias={str(END_TOKEN): 100}, max_tokens=5)).json()
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("stop", 1)
