"""What a response goes on from: responses before it, items, conversations."""

from functools import partial
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.e2e.processes import ServerProcess, eventually
from tests.e2e.responses.asking import ENDLESS, FOX, GREEDY, RESPONSES, end_of, greedy, refusal


def is_done(client: OpenAI, response_id: str) -> bool:
    return client.responses.retrieve(response_id).status not in ("queued", "in_progress")


class TestHistory:
    def test_goes_on_from_a_response(self, client: OpenAI) -> None:
        first = client.responses.create(**GREEDY, instructions="Never inherited, however long this may be.")
        second = client.responses.create(**greedy(input="and"), previous_response_id=first.id)
        third = client.responses.create(**greedy(input="then"), previous_response_id=second.id)
        assert (second.previous_response_id, second.instructions) == (first.id, None)
        spoken: list[Any] = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "and"},
            {"role": "assistant", "content": second.output_text},
            {"role": "user", "content": "then"},
        ]
        whole = client.responses.create(**greedy(input=spoken))
        assert third.usage is not None
        assert whole.usage is not None
        assert (third.output_text, third.usage.input_tokens) == (whole.output_text, whole.usage.input_tokens)
        items = list(client.responses.input_items.list(third.id, order="asc", limit=2))
        texts = [item.content[0].to_dict()["text"] for item in items if item.type == "message"]
        assert texts == [one["content"] for one in spoken]

    def test_branches(self, client: OpenAI) -> None:
        first = client.responses.create(**GREEDY)
        branches = [client.responses.create(**greedy(input=text), previous_response_id=first.id) for text in ("a", "b")]
        for text, branch in zip(("a", "b"), branches, strict=True):
            items = client.responses.input_items.list(branch.id).data
            assert [item.content[0].to_dict()["text"] for item in items if item.type == "message"] == [
                *(text, first.output_text, "hello")
            ]

    def test_ends_where_something_is_gone(self, client: OpenAI, server: ServerProcess) -> None:
        first = client.responses.create(**GREEDY)
        second = client.responses.create(**GREEDY, previous_response_id=first.id)
        client.responses.delete(first.id)
        with pytest.raises(BadRequestError, match=first.id) as caught:
            client.responses.create(**GREEDY, previous_response_id=second.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
        assert len(client.responses.input_items.list(second.id).data) == 1
        assert refusal(server, input="x", previous_response_id="resp_x")[:2] == (400, "previous_response_not_found")

    def test_is_not_kept_where_that_is_not_wanted(self, client: OpenAI) -> None:
        reply = client.responses.create(**GREEDY, store=False)
        assert reply.to_dict()["store"] is False
        with pytest.raises(NotFoundError):
            client.responses.retrieve(reply.id)
        with pytest.raises(BadRequestError):
            client.responses.create(**GREEDY, previous_response_id=reply.id)

    def test_may_be_referred_to(self, client: OpenAI, server: ServerProcess) -> None:
        first = client.responses.create(**GREEDY)
        said = first.output[0].id
        assert said is not None
        second = client.responses.create(
            **greedy(input=[{"type": "item_reference", "id": said}, {"role": "user", "content": "and"}])
        )
        items = client.responses.input_items.list(second.id, order="asc").data
        assert items[0].to_dict()["content"] == first.output[0].to_dict()["content"]
        assert refusal(server, input=[{"type": "item_reference", "id": "msg_x"}]) == (404, "not_found", "input")

    def test_counts_its_tokens(self, client: OpenAI) -> None:
        first = client.responses.create(**GREEDY)
        asked: dict[str, Any] = {"input": "and then", "instructions": "Be brief.", "previous_response_id": first.id}
        count = client.responses.input_tokens.count(model="x", **asked)
        assert count.object == "response.input_tokens"
        usage = client.responses.create(model="x", max_output_tokens=1, **asked).usage
        assert usage is not None
        assert count.input_tokens == usage.input_tokens

    def test_too_long_is_refused_or_cut(self, single: ServerProcess, single_client: OpenAI) -> None:
        spoken: list[Any] = [{"role": "user", "content": FOX * 5}, {"role": "assistant", "content": "Yes."}] * 60
        asked: dict[str, Any] = {"model": "x", "input": [*spoken, {"role": "user", "content": "hello"}]}
        asked |= {"max_output_tokens": 1, "instructions": "Be brief."}
        with pytest.raises(BadRequestError) as caught:
            single_client.responses.create(**asked)
        assert caught.value.code == "context_length_exceeded"
        for reply in (
            single_client.responses.create(**asked, truncation="auto"),
            end_of(list(single_client.responses.create(**asked, truncation="auto", stream=True))),
        ):
            assert reply.truncation == "auto"
            assert reply.usage is not None
            assert 1000 < reply.usage.input_tokens < 3_000
        alone: dict[str, Any] = asked | {"input": FOX * 400}
        with pytest.raises(BadRequestError):
            single_client.responses.create(**alone, truncation="auto")


class TestItems:
    def test_are_listed_in_pages(self, client: OpenAI, server: ServerProcess) -> None:
        spoken: list[Any] = [{"role": "user", "content": str(number)} for number in range(5)]
        reply = client.responses.create(**greedy(input=spoken))

        def texts(**query: Any) -> list[str]:
            page = client.responses.input_items.list(reply.id, **query)
            return [str(item.content[0].to_dict()["text"]) for item in page.data if item.type == "message"]

        assert texts() == ["4", "3", "2", "1", "0"]
        assert texts(order="asc", limit=2) == ["0", "1"]
        assert list(client.responses.input_items.list(reply.id, limit=2)) == list(
            client.responses.input_items.list(reply.id)
        )
        path = f"{RESPONSES}/{reply.id}/input_items"
        page = server.get(f"{path}?limit=2&order=asc").json()
        assert (page["object"], page["has_more"], len(page["data"])) == ("list", True, 2)
        assert [page["first_id"], page["last_id"]] == [item["id"] for item in page["data"]]
        assert server.get(f"{path}?order=asc&after={page['last_id']}").json()["has_more"] is False
        for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")):
            error = server.get(f"{path}?{query}").json()["error"]
            assert (error["type"], error["param"]) == ("invalid_request_error", param)

    def test_of_conversations_can_be_changed(self, client: OpenAI, server: ServerProcess) -> None:
        spoken: list[Any] = [{"type": "message", "role": "user", "content": str(number)} for number in range(3)]
        conversation = client.conversations.create(items=spoken, metadata={"k": "v"})
        assert (conversation.object, conversation.metadata) == ("conversation", {"k": "v"})
        added = client.conversations.items.create(conversation.id, items=[spoken[0]])
        assert len(added.data) == 1
        listed = client.conversations.items.list(conversation.id, order="asc").data
        assert [item.to_dict()["content"][0]["text"] for item in listed] == ["0", "1", "2", "0"]  # type: ignore[index]
        (newest,) = client.conversations.items.list(conversation.id, limit=1).data
        assert newest.id == added.first_id
        assert newest.id is not None
        assert client.conversations.items.retrieve(newest.id, conversation_id=conversation.id) == newest
        assert client.conversations.items.delete(newest.id, conversation_id=conversation.id) == conversation
        assert len(client.conversations.items.list(conversation.id).data) == 3
        updated = client.conversations.update(conversation.id, metadata={"other": "w"})
        assert client.conversations.retrieve(conversation.id) == updated
        assert updated.metadata == {"other": "w"}
        assert client.conversations.delete(conversation.id).deleted
        for call in (
            lambda: client.conversations.retrieve(conversation.id),
            lambda: client.conversations.delete(conversation.id),
            lambda: client.conversations.items.list(conversation.id),
            lambda: client.conversations.items.retrieve(str(newest.id), conversation_id=conversation.id),
            lambda: client.conversations.items.delete(str(newest.id), conversation_id=conversation.id),
            lambda: client.conversations.items.create(conversation.id, items=spoken),
        ):
            with pytest.raises(NotFoundError):
                call()
        assert refusal(server, "/v1/conversations", metadata={"k": 1}) == (400, "invalid_value", "metadata.k")


class TestConversation:
    def test_is_gone_on_with(self, client: OpenAI) -> None:
        conversation = client.conversations.create(items=[{"role": "user", "content": "hello"}])
        first = client.responses.create(**greedy(input="one"), conversation=conversation.id)
        second = client.responses.create(**greedy(input="two"), conversation={"id": conversation.id}, store=False)
        assert second.conversation is not None
        assert second.conversation.id == conversation.id
        items = client.conversations.items.list(conversation.id, order="asc").data
        assert [item.to_dict()["content"][0]["text"] for item in items] == [  # type: ignore[index]
            *("hello", "one", first.output_text, "two", second.output_text)
        ]
        spoken: list[Any] = [
            {"role": "user", "content": "hello"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "two"},
        ]
        assert client.responses.create(**greedy(input=spoken)).output_text == second.output_text

    def test_is_one_responses_at_a_time(self, client: OpenAI, server: ServerProcess) -> None:
        conversation = client.conversations.create()
        stream = client.responses.create(**ENDLESS, conversation=conversation.id, stream=True)
        next(stream)
        locked = refusal(server, input="x", conversation=conversation.id)
        assert locked == (400, "conversation_locked", "conversation")
        stream.close()
        server.wait_until_idle()
        client.responses.create(**GREEDY, conversation=conversation.id)
        items = client.conversations.items.list(conversation.id).data
        # What was not done has left nothing.
        assert [item.type for item in items] == ["message", "message"]

    def test_is_free_after_a_response_in_the_background(self, client: OpenAI) -> None:
        conversation = client.conversations.create()
        for _ in range(2):
            reply = client.responses.create(**GREEDY, conversation=conversation.id, background=True)
            eventually(partial(is_done, client, reply.id), "the response's end")
        assert len(client.conversations.items.list(conversation.id).data) == 4

    def test_must_be_there_and_alone(self, server: ServerProcess) -> None:
        assert refusal(server, input="x", conversation="conv_x") == (404, "not_found", "conversation")
        both = refusal(server, input="x", conversation="conv_x", previous_response_id="resp_x")
        assert both == (400, "mutually_exclusive_parameters", "conversation")
