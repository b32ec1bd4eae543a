"""Stored chat completions, through OpenAI's own client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import chat

HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def kept(client: OpenAI, model: str = "x", **metadata: str) -> str:
    """The id of a stored completion."""
    return client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=3, temperature=0, store=True, metadata=metadata
    ).id


def test_what_is_stored_is_what_was_answered(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="x", messages=HELLO, max_tokens=5, temperature=0, store=True, metadata={"a": "b"}
    )
    stored = client.chat.completions.retrieve(reply.id)
    assert stored.choices == reply.choices
    assert stored.usage == reply.usage
    assert stored.model_dump()["metadata"] == {"a": "b"}


def test_a_stream_is_stored_when_its_last_event_comes(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="x", messages=HELLO, max_tokens=5, temperature=0, store=True, stream=True)
    )
    stored = client.chat.completions.retrieve(chunks[0].id)
    assert stored.choices[0].message.content == "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices
    )


def test_nothing_is_kept_unasked(client: OpenAI, server: ServerProcess) -> None:
    for fields in {}, {"store": False}:
        made = server.post(chat(max_tokens=1, **fields)).json()["id"]
        with pytest.raises(NotFoundError, match=made):
            client.chat.completions.retrieve(made)


def test_its_messages_are_listed_in_order(client: OpenAI, server: ServerProcess) -> None:
    made = kept(client)
    listed = server.get(f"/v1/chat/completions/{made}/messages?order=asc").json()
    assert [message["role"] for message in listed["data"]] == ["system", "user"]
    assert [message["content"] for message in listed["data"]] == ["Be brief.", "hello"]
    first = server.get(f"/v1/chat/completions/{made}/messages?order=asc&limit=1").json()
    assert first["has_more"]
    rest = server.get(f"/v1/chat/completions/{made}/messages?order=asc&after={first['last_id']}").json()
    assert rest["data"] == listed["data"][1:]


def test_they_are_listed_by_model_and_metadata(client: OpenAI) -> None:
    ids = [kept(client, "mine", batch="7", n=str(n)) for n in range(3)]
    other = kept(client, "other", batch="7")
    assert [one.id for one in client.chat.completions.list(model="mine", metadata={"batch": "7"})] == ids
    assert [one.id for one in client.chat.completions.list(metadata={"batch": "7"}, limit=2)] == [*ids, other]
    newest = client.chat.completions.list(metadata={"batch": "7"}, order="desc", limit=1).data
    assert [one.id for one in newest] == [other]
    assert client.chat.completions.list(metadata={"batch": "8"}).data == []


def test_metadata_can_be_changed_and_a_completion_deleted(client: OpenAI) -> None:
    made = kept(client, "mine", colour="red")
    changed = client.chat.completions.update(made, metadata={"colour": "blue"})
    assert changed.model_dump()["metadata"] == {"colour": "blue"}
    assert [one.id for one in client.chat.completions.list(metadata={"colour": "blue"})] == [made]
    assert client.chat.completions.delete(made).deleted
    with pytest.raises(NotFoundError):
        client.chat.completions.delete(made)
    assert client.chat.completions.list(metadata={"colour": "blue"}).data == []


@pytest.mark.parametrize(
    ("path", "param"),
    [("?limit=0", "limit"), ("?order=up", "order"), ("?after=chatcmpl-none", "after")],
)
def test_a_wrong_query_is_refused(server: ServerProcess, path: str, param: str) -> None:
    reply = server.get(f"/v1/chat/completions{path}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_too_much_metadata_is_refused(server: ServerProcess) -> None:
    reply = server.post(chat(store=True, metadata={str(n): "x" for n in range(17)}))
    assert reply.status_code == 400
    assert json.loads(reply.text)["error"]["param"] == "metadata"
