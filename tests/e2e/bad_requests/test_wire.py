"""Routes that are not there, and bytes that are no HTTP: an answer all the same, and a server that serves on."""

import json
import random
import socket

import pytest

from tests.e2e.bad_requests.refusal import HEAD, assert_refused
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import CHAT, END_TOKEN, chat, exchange


class TestRoutes:
    @pytest.mark.parametrize("path", ["/v1/nothing", "/v2/chat/completions", "/..%2f..%2fetc/passwd", "/%00", "/%ff"])
    def test_that_do_not_exist(self, server: ServerProcess, path: str) -> None:
        assert_refused(server.get(path), "/docs", status=404, code="not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/v1/embeddings", "POST"),
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
