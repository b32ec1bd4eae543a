"""Responses in the background, and the end of responses."""

from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.responses.asking import ENDLESS, GREEDY, RESPONSES, end_of, greedy, open_client, refusal


class TestBackground:
    def test_response_is_polled(self, client: OpenAI) -> None:
        reply = client.responses.create(**GREEDY, background=True)
        assert (reply.status, reply.background, reply.output) == ("queued", True, [])
        eventually(lambda: client.responses.retrieve(reply.id).status == "incomplete", "the response's end")
        done = client.responses.retrieve(reply.id)
        assert done.output_text == client.responses.create(**GREEDY).output_text
        assert done.created_at == reply.created_at
        assert client.responses.cancel(reply.id) == done

    def test_stream_is_taken_up_again(self, client: OpenAI, server: ServerProcess) -> None:
        asked = greedy(max_output_tokens=40)
        stream = client.responses.create(**asked, background=True, stream=True)
        seen = [next(stream) for _ in range(6)]
        stream.close()
        first = seen[0]
        assert first.type == "response.created"
        rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=seen[-1].sequence_number))
        events: list[Any] = [*seen, *rest]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events[:3]] == [
            *("response.created", "response.queued", "response.in_progress")
        ]
        assert end_of(rest) == client.responses.retrieve(first.response.id)
        # Once more, from the start, though it is done.
        again = list(client.responses.retrieve(first.response.id, stream=True))
        assert [event.to_dict() for event in again] == [event.to_dict() for event in events]
        assert server.get(f"{RESPONSES}/{first.response.id}?starting_after=3").status_code == 400

    @pytest.mark.parametrize("is_read", [False, True])
    def test_response_that_is_cancelled_ends(self, server: ServerProcess, client: OpenAI, is_read: bool) -> None:
        reply = client.responses.create(**ENDLESS, background=True)
        eventually(lambda: client.responses.retrieve(reply.id).status == "in_progress", "its beginning")
        stream = client.responses.retrieve(reply.id, stream=True) if is_read else iter(())
        next(stream, None)
        cancelled = client.responses.cancel(reply.id)
        assert cancelled.status == "cancelled"
        server.wait_until_idle()
        assert client.responses.retrieve(reply.id) == cancelled == client.responses.cancel(reply.id)
        assert [event.type for event in stream][-1:] == ["response.failed"] * is_read

    def test_response_that_waits_can_be_cancelled(self, single: ServerProcess, single_client: OpenAI) -> None:
        running = single_client.responses.create(**ENDLESS, background=True)
        waiting = single_client.responses.create(**ENDLESS, background=True)
        single.wait_for_load(active=1, waiting=1)
        assert single_client.responses.retrieve(waiting.id).status == "queued"
        cancelled = single_client.responses.cancel(waiting.id)
        assert (cancelled.status, cancelled.output) == ("cancelled", [])
        single.wait_for_load(active=1, waiting=0)
        assert single_client.responses.cancel(running.id).status == "cancelled"

    def test_response_that_is_deleted_ends_and_is_gone(self, server: ServerProcess, client: OpenAI) -> None:
        reply = client.responses.create(**ENDLESS, background=True)
        eventually(lambda: client.responses.retrieve(reply.id).status == "in_progress", "its beginning")
        client.responses.delete(reply.id)
        server.wait_until_idle()
        for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(NotFoundError):
                call(reply.id)
        assert server.get(f"{RESPONSES}/{reply.id}?stream=true").status_code == 404

    def test_response_is_not_continued_before_its_end(self, client: OpenAI) -> None:
        reply = client.responses.create(**ENDLESS, background=True)
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(**GREEDY, previous_response_id=reply.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_in_progress", "previous_response_id")
        client.responses.cancel(reply.id)
        assert client.responses.create(**GREEDY, previous_response_id=reply.id).output_text

    def test_response_that_fails_says_so(self, tiny_model: Path, tmp_path: Path) -> None:
        with ServerProcess(tmp_path, "--model-path", tiny_model, "--request-timeout", 0.5) as server:
            with open_client(server.wait_until_ready()) as own:
                reply = own.responses.create(**ENDLESS, background=True)
                events = list(own.responses.retrieve(reply.id, stream=True))
                failed = own.responses.retrieve(reply.id)
            assert events[-1].type == "response.failed"
            assert failed.status == "failed"
            assert failed.error is not None
            assert "0.5 s" in failed.error.message
            assert "Traceback" not in server.log()

    def test_is_not_for_what_is_not_stored(self, server: ServerProcess) -> None:
        assert refusal(server, input="x", background=True, store=False) == (400, None, "store")

    def test_does_not_hide_what_is_wrong_with_the_request(self, server: ServerProcess) -> None:
        wrong = refusal(server, input=[{"role": "user", "content": [{"type": "input_file"}]}], background=True)
        assert wrong == (400, "unsupported_parameter", "input[0].content[0]")


class TestDeletion:
    def test_of_a_response(self, client: OpenAI) -> None:
        reply = client.responses.create(**GREEDY)
        client.responses.delete(reply.id)
        for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
            with pytest.raises(NotFoundError, match=reply.id):
                call(reply.id)

    def test_of_a_response_that_somebody_reads(self, server: ServerProcess, client: OpenAI) -> None:
        asked: dict[str, Any] = ENDLESS | {"max_output_tokens": 300}
        stream = client.responses.create(**asked, stream=True)
        created = next(stream)
        assert created.type == "response.created"
        next(event for event in stream if event.type == "response.output_text.delta")
        assert server.send("DELETE", f"{RESPONSES}/{created.response.id}").json() == {
            "id": created.response.id,
            "object": "response",
            "deleted": True,
        }
        last = end_of(list(stream))
        assert last.to_dict()["store"] is False
        with pytest.raises(NotFoundError):
            client.responses.retrieve(created.response.id)

    def test_of_what_is_not_there(self, client: OpenAI, server: ServerProcess) -> None:
        reply = client.responses.create(**GREEDY)
        with pytest.raises(BadRequestError, match="synchronous"):
            client.responses.cancel(reply.id)
        with pytest.raises(BadRequestError, match="events") as caught:
            list(client.responses.retrieve(reply.id, stream=True))
        assert caught.value.param == "stream"
        for path in ("", "/cancel", "/input_items"):
            method = "POST" if path == "/cancel" else "GET"
            error = server.send(method, f"{RESPONSES}/resp_x{path}").json()["error"]
            assert (error["code"], error["message"]) == ("not_found", "Response with id 'resp_x' not found.")
