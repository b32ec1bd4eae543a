import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call
from tests.fixtures import tiny_bert
from tests.fixtures.numpy_bert import NumpyBert
from tests.fixtures.tiny_bert import CONTEXT, VOCABULARY, WIDTH, WORDS

PATH = "/v1/embeddings"
SAMPLE = "all-minilm-l6-v2"
TINY = "tiny/bert"
SAME = 1e-5
# Half a million tokens, for which the sample takes seconds on the fastest machine.
LARGE = {"model": SAMPLE, "input": ["fox " * 254] * 2048}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.write(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny model, and the sample as users name it."""
    directory = tmp_path_factory.mktemp("server")
    models = [{"model_path": str(folder), "served_model_name": TINY, "queue_size": 64}, {"model_path": SAMPLE}]
    (directory / "models.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    with ServerProcess(directory, "--config", "models.yaml") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    """As users make it: where no format is named it asks for base64 and decodes it."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def strict(server: ServerProcess) -> Iterator[OpenAI]:
    """Accepts nothing but what OpenAI documents, which is numbers: base64 it refuses before it decodes it."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(folder: Path) -> NumpyBert:
    return NumpyBert(folder)


def test_the_sample_finds_what_is_alike(client: OpenAI) -> None:
    texts = ["A cat sat on the mat.", "A kitten is sitting on a rug.", "Income tax is due."]
    reply = client.embeddings.create(model=SAMPLE, input=texts)
    cat, kitten, tax = (np.array(one.embedding) for one in reply.data)
    assert len(cat) == 384
    assert cat @ kitten > 0.4 > 0.2 > cat @ tax
    assert reply.model == SAMPLE


def test_the_sdk_gets_the_models_vectors(client: OpenAI, strict: OpenAI, reference: NumpyBert) -> None:
    texts = ["the quick fox", "one"]
    tokens = [reference.tokenize(text) for text in texts]
    expected = [reference.embed(one) for one in tokens]
    decoded = client.embeddings.create(model=TINY, input=texts)
    numbers = strict.embeddings.create(model=TINY, input=texts, encoding_format="float")
    for reply in (decoded, numbers):
        np.testing.assert_allclose([one.embedding for one in reply.data], expected, atol=SAME)
        assert [one.index for one in reply.data] == [0, 1]
        assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(map(len, tokens))
    assert [one.embedding for one in decoded.data] == [one.embedding for one in numbers.data]


def test_base64_goes_out_as_text(client: OpenAI, server: ServerProcess) -> None:
    plain = client.embeddings.create(model=TINY, input="the fox", encoding_format="float").data[0].embedding
    reply = server.post({"model": TINY, "input": "the fox", "encoding_format": "base64"}, PATH).json()
    raw = base64.b64decode(reply["data"][0]["embedding"], validate=True)
    assert list(struct.unpack(f"<{WIDTH}f", raw)) == plain


def test_every_form_of_input_is_taken(client: OpenAI, reference: NumpyBert) -> None:
    tokens = reference.tokenize("the fox")
    forms: list[Any] = ["the fox", ["the fox"], tokens, [tokens]]
    vectors = [client.embeddings.create(model=TINY, input=form).data[0].embedding for form in forms]
    np.testing.assert_allclose(vectors, [reference.embed(tokens)] * len(forms), atol=SAME)


def test_dimensions_shorten_the_vectors(client: OpenAI, reference: NumpyBert) -> None:
    reply = client.embeddings.create(model=TINY, input="the fox", dimensions=7)
    expected = reference.embed(reference.tokenize("the fox"), dimensions=7)
    np.testing.assert_allclose(reply.data[0].embedding, expected, atol=SAME)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": ["the fox", "fox " * CONTEXT]}, "input[1]", f"has {CONTEXT + 2}."),
        ({"input": ["the fox", "fox " * 100_000]}, "input[1]", "at least"),
        ({"input": [[1], [len(VOCABULARY)]]}, "input[1]", f"0 to {len(VOCABULARY) - 1}"),
        ({"input": "the fox", "dimensions": WIDTH + 1}, "dimensions", str(WIDTH)),
        ({"input": ["the fox", ""]}, "input[1]", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": ["x"] * 2049}, "input", "at most 2048"),
        ({}, "input", "required"),
    ],
)
def test_what_cannot_be_embedded_is_refused(client: OpenAI, fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.post("/embeddings", body={"model": TINY, **fields}, cast_to=object)
    assert caught.value.param == param
    assert said in caught.value.message


def test_a_long_input_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model=TINY, input="fox " * CONTEXT)
    assert caught.value.code == "context_length_exceeded"


def test_an_embedding_model_does_not_chat(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings"):
        client.chat.completions.create(model=TINY, messages=[{"role": "user", "content": "hello"}])


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match=SAMPLE):
        client.embeddings.create(model="text-embedding-3-small", input="hello")


async def test_many_at_once_each_get_their_own(server: ServerProcess, reference: NumpyBert) -> None:
    inputs = [
        [" ".join(WORDS[first : first + number % 9 + 1]) for first in range(number % 5 + 1)] for number in range(48)
    ]
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        replies = await asyncio.gather(*(client.embeddings.create(model=TINY, input=texts) for texts in inputs))
    for texts, reply in zip(inputs, replies, strict=True):
        expected = [reference.embed(reference.tokenize(text)) for text in texts]
        np.testing.assert_allclose([one.embedding for one in reply.data], expected, atol=SAME)
    server.wait_for_load(active=0, waiting=0, model=TINY)


def test_the_largest_request_comes_back_in_order(client: OpenAI, reference: NumpyBert) -> None:
    texts = [" ".join(WORDS[place % 16 :][: place % 3 + 1]) for place in range(2048)]
    reply = client.embeddings.create(model=TINY, input=texts)
    assert [one.index for one in reply.data] == list(range(2048))
    for place in (0, 1, 1000, 2047):
        np.testing.assert_allclose(
            reply.data[place].embedding, reference.embed(reference.tokenize(texts[place])), atol=SAME
        )


def test_who_hangs_up_stops_the_work(server: ServerProcess, client: OpenAI) -> None:
    cancelled = server.stats(SAMPLE)["cancelled_requests"]
    with Call(server, LARGE, PATH) as large:
        server.wait_for_load(active=1, waiting=0, model=SAMPLE)
        # The large one does not hold up a small one.
        assert len(client.embeddings.create(model=SAMPLE, input="the fox").data) == 1
        assert server.stats(SAMPLE)["active_requests"] == 1
        large.hang_up()
    server.wait_until_idle(model=SAMPLE)
    assert server.stats(SAMPLE)["cancelled_requests"] == cancelled + 1
