"""Films and recordings in chats and responses, for a model that sees and hears, by the official SDK."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.fixtures import films, sound
from tests.fixtures.pictures import encoded, picture

FILM, SOUND = films.film(films.frames(12)), sound.wav(sound.whistle(1.3))
SONG = sound.encode(sound.whistle(0.7), "mp3", "libmp3lame")


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url_of(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64_of(data)}"


def heard(data: bytes, form: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64_of(data), "format": form}}


def filmed(data: bytes) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url_of(data)}}


@pytest.fixture(scope="module")
def media_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    (root / "film.mp4").write_bytes(FILM)
    return root


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory, media_root: Path) -> Iterator[ServerProcess]:
    from tests.fixtures import tiny_vlm

    folder = tiny_vlm.gemma4(tmp_path_factory.mktemp("models") / "tiny-gemma4")
    options = ("--model-path", folder, "--temperature", 0, "--media-root", media_root)
    with ServerProcess(tmp_path_factory.mktemp("server"), *options) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(hearing: ServerProcess) -> Iterator[OpenAI]:
    url = f"{hearing.url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True, timeout=100) as opened:
        yield opened


def said(client: OpenAI, *parts: dict[str, Any], text: str = "what is it?") -> str:
    messages: Any = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    reply = client.chat.completions.create(model="any", messages=messages, max_tokens=12)
    assert reply.choices[0].message.content
    return reply.choices[0].message.content


def test_recordings_in_each_way_of_sending_them(client: OpenAI) -> None:
    expected = said(client, heard(SOUND))
    assert said(client, {"type": "audio_url", "audio_url": {"url": url_of(SOUND)}}) == expected
    parts: Any = [heard(SOUND), {"type": "input_text", "text": "what is it?"}]
    response = client.responses.create(
        model="any", input=[{"role": "user", "content": parts}], max_output_tokens=12, store=False
    )
    assert response.output_text == expected
    assert said(client, heard(SONG, "mp3")) != expected != said(client)


def test_films_in_each_way_of_sending_them(client: OpenAI) -> None:
    expected = said(client, filmed(FILM))
    ways: list[dict[str, Any]] = [
        {"type": "video_url", "video_url": url_of(FILM)},
        {"type": "video_url", "video_url": {"url": "film.mp4"}},
        {"type": "input_video", "video_url": {"url": url_of(FILM)}},
        {"type": "input_video", "video": url_of(FILM)},
        {"type": "video", "video": {"url": url_of(FILM)}},
    ]
    assert [said(client, way) for way in ways] == [expected] * len(ways)
    assert said(client, filmed(films.film(films.frames(12, turn=90)))) != expected != said(client)


def test_many_at_once_are_answered_as_alone(client: OpenAI) -> None:
    shown = {"type": "image_url", "image_url": {"url": url_of(encoded(picture(100, 80)))}}
    asked: list[list[dict[str, Any]]] = [[heard(SOUND)], [filmed(FILM)], [], [shown, heard(SONG), filmed(FILM)]]
    alone = [said(client, *parts) for parts in asked]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda parts: said(client, *parts), asked * 2)) == alone * 2


@pytest.mark.parametrize(
    ("part", "field", "word"),
    [
        (filmed(b""), "video_url", "is empty"),
        (filmed(FILM[:500]), "video_url", "no film"),
        (filmed(SOUND), "video_url", "no film"),
        (filmed(films.long_film(4096, 257)), "video_url", "more than 256 frames"),
        (heard(b""), "input_audio", "is empty"),
        (heard(SOUND[:2000]), "input_audio", "cut off"),
        (heard(encoded(picture(64, 64))), "input_audio", "no sound"),
        (heard(sound.silence_of_hours(0.1)), "input_audio", "longer than the 30 s"),
        ({"type": "input_video"}, "video_url", "needs 'video_url'"),
        ({"type": "video"}, "video", "needs 'video'"),
    ],
)
def test_a_part_that_is_wrong_is_named(client: OpenAI, part: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(BadRequestError, match=word) as caught:
        said(client, heard(SONG), part)
    assert caught.value.param == f"messages[0].content[1].{field}"
    assert said(client, heard(SONG))


def test_what_was_looked_at_is_counted_and_forgotten(client: OpenAI, hearing: ServerProcess) -> None:
    hearing.send("DELETE", "/v1/cache")
    before = hearing.get("/v1/cache/stats").json()["cache_stats"]
    said(client, filmed(FILM), text="once")
    said(client, filmed(FILM), text="and again")
    after = hearing.get("/v1/cache/stats").json()["cache_stats"]
    assert (after["media_lookups"] - before["media_lookups"], after["media_hits"] - before["media_hits"]) == (2, 1)
    assert (before["num_media"], before["media_bytes"], after["num_media"]) == (0, 0, 1)
    assert 0 < after["media_bytes"] < after["media_max_bytes"]
    freed = hearing.send("DELETE", "/v1/cache").json()["freed"]
    assert (freed["num_media"], freed["media_bytes"]) == (1, after["media_bytes"])
    assert hearing.get("/v1/cache/stats").json()["cache_stats"]["media_bytes"] == 0


def test_the_model_says_what_it_takes(hearing: ServerProcess) -> None:
    (model,) = hearing.get("/v1/models").json()["data"]
    assert model["kind"] == "vlm"
    assert [one for one in model["capabilities"] if one in ("vision", "video", "audio")] == ["vision", "video", "audio"]
