"""Pictures in chats, responses and messages, shown to a model that sees, by the official SDKs."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.fixtures.pictures import encoded, picture

WIDE = base64.b64encode(encoded(picture(100, 80))).decode()
TALL = base64.b64encode(encoded(picture(70, 130), "jpeg")).decode()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    from tests.fixtures import tiny_vlm

    folder = tiny_vlm.qwen2_vl(tmp_path_factory.mktemp("models") / "tiny-qwen2-vl")
    with ServerProcess(tmp_path_factory.mktemp("server"), "--model-path", folder, "--temperature", 0) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(seeing: ServerProcess) -> Iterator[OpenAI]:
    url = f"{seeing.url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True, timeout=100) as opened:
        yield opened


def shown(image: str, text: str = "what is it?") -> Any:
    url = f"data:image/{'png' if image is WIDE else 'jpeg'};base64,{image}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def said(client: OpenAI, messages: Any) -> str:
    reply = client.chat.completions.create(model="any", messages=messages, max_tokens=12)
    return reply.choices[0].message.content or ""


def test_the_second_time_a_picture_costs_nothing(client: OpenAI) -> None:
    first, again = (
        client.chat.completions.create(model="any", messages=shown(WIDE, "once and again"), max_tokens=12)
        for _ in range(2)
    )
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.usage is not None
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1 > 30


def test_a_stream_says_the_same(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="any", messages=shown(TALL), max_tokens=12, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 2
    assert "".join(pieces) == said(client, shown(TALL))


def test_three_protocols_show_the_same(client: OpenAI, seeing: ServerProcess) -> None:
    expected = said(client, shown(WIDE))
    url = f"data:image/png;base64,{WIDE}"
    parts: Any = [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": "what is it?"},
    ]
    response = client.responses.create(
        model="any", input=[{"role": "user", "content": parts}], max_output_tokens=12, store=False
    )
    assert response.output_text == expected
    source = {"type": "base64", "media_type": "image/png", "data": WIDE}
    blocks: Any = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    with Anthropic(base_url=seeing.url, api_key="none", max_retries=0) as other:
        message = other.messages.create(model="any", max_tokens=12, messages=[{"role": "user", "content": blocks}])
    assert [block.text for block in message.content if block.type == "text"] == [expected]


def test_many_at_once_are_answered_as_alone(client: OpenAI) -> None:
    asked = [shown(WIDE), [{"role": "user", "content": "no picture"}], shown(TALL), shown(WIDE, "another question")] * 2
    alone = [said(client, messages) for messages in asked]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(lambda messages: said(client, messages), asked)) == alone


def test_a_damaged_picture_is_named_and_harms_nobody(client: OpenAI) -> None:
    damaged = base64.b64encode(encoded(picture(64, 64))[:300]).decode()
    with pytest.raises(BadRequestError) as caught:
        said(client, shown(WIDE) + shown(damaged))
    assert "damaged" in str(caught.value.body)
    assert said(client, shown(WIDE))


def test_the_model_is_of_its_kind(client: OpenAI, seeing: ServerProcess) -> None:
    assert [model["kind"] for model in seeing.get("/v1/models").json()["data"]] == ["vlm"]
    with pytest.raises(BadRequestError, match="/v1/chat/completions"):
        client.embeddings.create(model="any", input="text")
