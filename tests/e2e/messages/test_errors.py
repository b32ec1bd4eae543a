"""What Anthropic's routes refuse, and how."""

import os
import signal
import threading
from contextlib import ExitStack
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from tests.e2e.messages.asking import HELLO, KEY, LONG_PROMPT, MESSAGES, ask, open_client
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call, endless


class TestErrors:
    """Each is a class of Anthropic's own client, whoever raised it: a route, or a layer before any route."""

    def check(self, error: anthropic.APIStatusError, status: int, kind: str, words: str) -> None:
        assert (error.status_code, error.type) == (status, kind)
        assert words in (error.api_message or "")
        assert isinstance(error.body, dict)
        assert error.body["type"] == "error"
        assert error.body["request_id"] == error.request_id == error.response.headers["X-Request-ID"]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"max_tokens": 0}, "'max_tokens'"),
            ({"messages": []}, "'messages'"),
            ({"extra_body": {"temperature": 1.5}}, "'temperature'"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role'"),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "'tools[0].type'"),
        ],
    )
    def test_of_the_request_name_the_field(self, client: Anthropic, fields: dict[str, Any], words: str) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(client, **fields)
        self.check(caught.value, 400, "invalid_request_error", words)

    def test_of_a_missing_limit_are_clear(self, server: ServerProcess) -> None:
        error = server.post({"messages": HELLO}, MESSAGES).json()["error"]
        assert error == {"type": "invalid_request_error", "message": "'max_tokens': Field required."}

    def test_of_keys(self, guarded: ServerProcess) -> None:
        with open_client(guarded, api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                ask(client, model="slow")
            self.check(caught.value, 401, "authentication_error", "x-api-key")
            with pytest.raises(anthropic.AuthenticationError) as caught:
                client.messages.count_tokens(model="slow", messages=HELLO)
            self.check(caught.value, 401, "authentication_error", "x-api-key")
        for header in ("api_key", "auth_token"):
            with open_client(guarded, **{header: KEY}) as client:
                assert ask(client, model="slow", max_tokens=1).usage.output_tokens == 1

    def test_of_names(self, keyed: Anthropic, guarded: ServerProcess) -> None:
        with pytest.raises(anthropic.NotFoundError) as caught:
            ask(keyed, model="other")
        self.check(caught.value, 404, "not_found_error", "'slow', 'single'")
        for path in ("/v1/messages/batches", "/anthropic/v1/nothing", "/anthropic"):
            reply = guarded.get(path, **{"x-api-key": KEY})
            assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
            assert reply.json()["request_id"] == reply.headers["request-id"]

    def test_of_methods(self, server: ServerProcess) -> None:
        reply = server.get(MESSAGES)
        assert (reply.status_code, reply.json()["error"]["type"]) == (405, "invalid_request_error")
        assert reply.headers["Allow"] == "POST"

    def test_of_sizes(self, client: Anthropic) -> None:
        with pytest.raises(anthropic.APIStatusError) as caught:
            ask(client, system="x" * 17_000_000)
        self.check(caught.value, 413, "request_too_large", "--max-body-size")

    def test_of_the_context_say_what_agents_look_for(self, keyed: Anthropic) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            ask(keyed, model="slow", system=LONG_PROMPT * 13)
        self.check(caught.value, 400, "invalid_request_error", "prompt is too long: ")

    def test_of_a_full_line(self, guarded: ServerProcess, keyed: Anthropic) -> None:
        with ExitStack() as stack:
            for num_waiting in (0, 1):
                stack.enter_context(Call(guarded, endless(model="single"), headers={"x-api-key": KEY}))
                guarded.wait_for_load(active=1, waiting=num_waiting, model="single", key=KEY)
            with pytest.raises(anthropic.RateLimitError) as caught:
                ask(keyed, model="single")
            # Counting waits in no line with those who generate.
            assert keyed.messages.count_tokens(model="single", messages=HELLO).input_tokens > 1
        self.check(caught.value, 429, "rate_limit_error", "wait")
        assert int(caught.value.response.headers["Retry-After"]) >= 1

    def test_of_a_worker_that_dies(self, guarded: ServerProcess, keyed: Anthropic) -> None:
        """Before the first event it is a status, after it the stream's last event."""
        messages: list[Any] = [{"role": "user", "content": LONG_PROMPT * 9}]
        dead: list[anthropic.APIStatusError] = []

        def ask_in_one_piece() -> None:
            with pytest.raises(anthropic.APIStatusError) as caught:
                ask(keyed, model="slow", messages=messages, max_tokens=20_000)
            dead.append(caught.value)

        with keyed.messages.stream(model="slow", messages=messages, max_tokens=20_000) as stream:
            assert next(iter(stream)).type == "message_start"
            other = threading.Thread(target=ask_in_one_piece)
            other.start()
            guarded.wait_for_load(active=2, waiting=0, model="slow", key=KEY)
            os.kill(guarded.worker_of("slow"), signal.SIGKILL)
            with pytest.raises(anthropic.APIStatusError) as caught:
                list(stream)
            other.join()
        self.check(caught.value, 200, "overloaded_error", "SIGKILL")
        self.check(dead[0], 503, "overloaded_error", "SIGKILL")
        assert ask(keyed, model="slow", max_tokens=1).usage.output_tokens == 1
