"""Images over HTTP: the official SDK, files by URL, streams, and what is refused."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call
from tests.fixtures import tiny_flux
from tests.fixtures.pictures import bomb, decoded, encoded, picture

PATH = "/v1/images/generations"
EDITS = "/v1/images/edits"
MODEL = "tiny/flux"
KEY = "sk-images"
AUTH = {"x-api-key": KEY}
# What the SDK's own parameters leave no room for.
SMALL: dict[str, Any] = {"seed": 1, "steps": 1}
PNG = encoded(picture(16, 32))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny model behind a key, and limits that are quickly reached."""
    folder = tiny_flux.write(tmp_path_factory.mktemp("models") / "flux")
    arguments = ("--model-path", folder, "--served-model-name", MODEL, "--api-key", KEY, "--max-input-pixels", 10_000)
    with ServerProcess(tmp_path_factory.mktemp("server"), *arguments, "--max-body-size", "1MiB") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(images: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{images.url}/v1", api_key=KEY, max_retries=0, _strict_response_validation=True, timeout=100
    ) as opened:
        yield opened


def shown(encoded_image: str | None) -> bytes:
    """The pixels of a PNG."""
    assert encoded_image is not None
    return decoded(base64.b64decode(encoded_image)).tobytes()


def test_the_sdk_gets_images(client: OpenAI) -> None:
    reply = client.images.generate(
        model=MODEL, prompt="a fox", n=2, size="16x16", user="u", moderation="low", extra_body=SMALL
    )
    assert reply.data is not None
    first, second = (shown(one.b64_json) for one in reply.data)
    assert first != second
    again = client.images.generate(model=MODEL, prompt="a fox", size="16x16", extra_body=SMALL | {"seed": 2})
    assert again.data is not None
    assert shown(again.data[0].b64_json) == second
    assert (reply.size, reply.output_format, reply.background, reply.quality) == ("16x16", "png", "opaque", "medium")
    usage = reply.usage
    assert usage is not None
    assert usage.output_tokens == 2
    assert usage.total_tokens == usage.input_tokens + 2 == usage.input_tokens_details.text_tokens + 2


@pytest.mark.parametrize("sources", [PNG, [PNG, encoded(picture(16, 16), "webp")]], ids=["one", "two"])
def test_the_sdk_changes_images(client: OpenAI, sources: bytes | list[bytes]) -> None:
    reply = client.images.edit(model=MODEL, image=sources, prompt="red", output_format="jpeg", extra_body=SMALL)
    assert reply.data is not None
    image = decoded(base64.b64decode(reply.data[0].b64_json or ""))
    # As its first source.
    assert (image.format, image.size, reply.size) == ("JPEG", (16, 32), "16x32")
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.image_tokens == (2 if sources == PNG else 3)


def test_the_sdk_streams_images(client: OpenAI) -> None:
    body = SMALL | {"steps": 3}
    stream = client.images.generate(
        model=MODEL, prompt="a fox", size="16x16", stream=True, partial_images=2, extra_body=body
    )
    *partial, last = stream
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partial if event.type == "image_generation.partial_image"] == [0, 1]
    assert last.type == "image_generation.completed"
    assert last.usage.output_tokens == 1
    whole = client.images.generate(model=MODEL, prompt="a fox", size="16x16", extra_body=body)
    assert whole.data is not None
    assert shown(last.b64_json) == shown(whole.data[0].b64_json)
    assert len({shown(event.b64_json) for event in (*partial, last)}) == 3


def test_the_sdk_streams_changes(client: OpenAI) -> None:
    *_, last = client.images.edit(model=MODEL, image=PNG, prompt="red", stream=True, extra_body=SMALL)
    assert last.type == "image_edit.completed"
    assert (last.size, last.usage.input_tokens_details.image_tokens) == ("16x32", 2)


def test_a_url_needs_no_key(images: ServerProcess, client: OpenAI) -> None:
    reply = client.images.generate(
        model=MODEL, prompt="a fox", size="16x16", response_format="url", output_format="webp", extra_body=SMALL
    )
    assert reply.data is not None
    url = reply.data[0].url
    assert url is not None
    assert reply.data[0].b64_json is None
    path = url.removeprefix(images.url)
    found = images.get(path)
    assert (found.status_code, found.headers["content-type"]) == (200, "image/webp")
    assert decoded(found.content).size == (16, 16)
    assert "max-age" in found.headers["cache-control"]
    for wrong in (path[:-1], path.replace(".webp", ".png"), "/v1/images/files/x.png", "/v1/images/files/"):
        assert images.get(wrong).status_code == 404
    # The rest of the server does.
    assert images.post({"prompt": "x"}, PATH).status_code == 401


def test_who_hangs_up_frees_the_worker(images: ServerProcess) -> None:
    """Else it would be busy for minutes."""
    long = {"prompt": "a fox", "size": "16x16", "n": 10, "steps": 200}
    with Call(images, long | {"stream": True}, PATH, AUTH) as call:
        assert call.response.readline().startswith(b": image 1, step 1 of 200")
    wait_until_idle(images)
    with Call(images, long, PATH, AUTH):
        images.wait_for_load(active=1, waiting=0, key=KEY)
    wait_until_idle(images)


def wait_until_idle(images: ServerProcess) -> None:
    """The next request is answered, which comes after whatever the worker does."""
    images.wait_for_load(active=0, waiting=0, key=KEY)
    reply = images.post({"prompt": "x", "size": "16x16", **SMALL}, PATH, **AUTH)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": "fox " * 1000}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "1024"}, "size"),
        ({"size": "100x100"}, "size"),
        ({"size": "0x16"}, "size"),
        ({"size": "16x8208"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"quality": "hd", "steps": 4}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "webp", "output_compression": 101}, "output_compression"),
        ({"response_format": "file"}, "response_format"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"partial_images": 1}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"num_inference_steps": 500}, "steps"),
        ({"guidance_scale": 3.5}, "guidance"),
        ({"negative_prompt": "ugly"}, "negative_prompt"),
    ],
)
def test_a_body_that_is_wrong(images: ServerProcess, body: dict[str, object], param: str) -> None:
    given = body if body == {} else {"prompt": "a fox", "size": "16x16"} | body
    reply = images.post(given, PATH, **AUTH)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello", "is no image"),
        (PNG[: len(PNG) // 2], "damaged or cut off"),
        (bomb(), "pixels"),
        (encoded(picture(101, 100)), "10000 are the limit"),
        (encoded(picture(8, 8)), "is 8x8"),
    ],
    ids=["empty", "text", "cut off", "bomb", "too many pixels", "too small"],
)
def test_a_file_that_is_wrong(client: OpenAI, data: bytes, said: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.images.edit(model=MODEL, image=("x.png", data), prompt="red")
    assert caught.value.param == "image"
    assert said in caught.value.message


def test_forms_that_are_wrong(images: ServerProcess, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.images.edit(model=MODEL, image=PNG, mask=PNG, prompt="red")
    assert caught.value.param == "mask"
    with pytest.raises(BadRequestError) as caught:
        client.images.edit(model=MODEL, image=[PNG] * 17, prompt="red")
    assert caught.value.param == "image"
    with pytest.raises(BadRequestError) as caught:
        client.images.edit(model=MODEL, image=PNG, prompt="red", n=11)
    assert caught.value.param == "n"
    form = {"content-type": "multipart/form-data; boundary=b", **AUTH}
    part = '--b\r\ncontent-disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    end = "--b--\r\n"
    for body, param in (
        (part.format("prompt", "red") + end, "image"),
        (part.format("prompt", "red") + part.format("image", "text") + end, "image"),
        ("no form at all", None),
        # Cut off: what is not complete is not there.
        (
            part.format("prompt", "red")
            + '--b\r\ncontent-disposition: form-data; name="image"; filename="x"\r\n\r\nabc',
            "image",
        ),
        ("", "prompt"),
    ):
        reply = images.send("POST", EDITS, body.encode(), **form)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), body
    reply = images.post({"prompt": "red"}, EDITS, **AUTH)
    assert reply.status_code == 400
    assert "multipart/form-data" in reply.json()["error"]["message"]
    large = (part.format("prompt", "x" * 2**20) + end).encode()
    assert images.send("POST", EDITS, large, **form).status_code == 413


def test_variations_are_refused(images: ServerProcess) -> None:
    reply = images.post({}, "/v1/images/variations", **AUTH)
    assert reply.status_code == 400
    assert "/v1/images/edits" in reply.json()["error"]["message"]


def test_a_request_of_another_kind_names_the_endpoint(images: ServerProcess, server: ServerProcess) -> None:
    chat = images.post({"messages": [{"role": "user", "content": "hi"}]}, **AUTH)
    assert chat.status_code == 400
    assert "use /v1/images/generations" in chat.json()["error"]["message"]
    image = server.post({"prompt": "a fox"}, "/images/generations")
    assert image.status_code == 400
    assert "use /v1/chat/completions" in image.json()["error"]["message"]


def test_nothing_above_harmed_the_server(images: ServerProcess) -> None:
    assert images.post({"prompt": "x", "size": "16x16", **SMALL}, PATH, **AUTH).status_code == 200
    assert "Traceback" not in images.log()
    assert "restart" not in images.log()
