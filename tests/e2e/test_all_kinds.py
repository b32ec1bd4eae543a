"""One server with a model of every kind, all used at once by the official SDK."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from tests.e2e.processes import ServerProcess
from tests.fixtures import sound
from tests.fixtures.pictures import decoded, encoded, picture
from tests.fixtures.sound import whistle

KINDS = ("lm", "vlm", "embeddings", "whisper", "speech", "images")
SPEECH = ("speech.wav", sound.wav(whistle(3)))
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
SHOWN = {"url": f"data:image/png;base64,{base64.b64encode(encoded(picture(56, 56))).decode()}"}
LOOK: list[Any] = [{"role": "user", "content": [{"type": "image_url", "image_url": SHOWN}]}]
# Random weights are never sure of what they hear: what they say first is taken.
CALM: dict[str, Any] = {"compression_ratio_threshold": 100, "logprob_threshold": -100}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # Naming MLX costs a second: only those tests pay for it that need a model.
    from tests.fixtures import tiny_bert, tiny_flux, tiny_kokoro, tiny_lm, tiny_vlm, tiny_whisper

    models = tmp_path_factory.mktemp("models")
    return {
        "lm": tiny_lm.llama(models / "lm"),
        "vlm": tiny_vlm.qwen2_vl(models / "vlm"),
        "embeddings": tiny_bert.write(models / "bert"),
        "whisper": tiny_whisper.write(models / "whisper"),
        "speech": tiny_kokoro.write(models / "kokoro"),
        "images": tiny_flux.write(models / "flux"),
    }


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("server")
    models = [
        {"model_path": str(folder), "served_model_name": kind, "mlx_warmup": False} for kind, folder in folders.items()
    ]
    (directory / "models.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    with ServerProcess(directory, "--config", "models.yaml") as running:
        yield running.wait_until_ready()


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100) as opened:
        yield opened


async def test_every_kind_is_told(server: ServerProcess, client: AsyncOpenAI) -> None:
    listed = {model.id: model.model_dump() for model in (await client.models.list()).data}
    assert {name: model["kind"] for name, model in listed.items()} == {kind: kind for kind in KINDS}
    assert len(server.workers()) == len(KINDS)


async def test_all_are_used_at_once(server: ServerProcess, client: AsyncOpenAI) -> None:
    greedy: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    for _ in range(2):
        said, seen, vectors, heard, spoken, drawn = await asyncio.gather(
            client.chat.completions.create(model="lm", messages=HELLO, **greedy),
            client.chat.completions.create(model="vlm", messages=LOOK, **greedy),
            client.embeddings.create(model="embeddings", input=["a fox", "a dog"]),
            client.audio.transcriptions.create(model="whisper", file=SPEECH, language="en", extra_body=CALM),
            client.audio.speech.create(model="speech", voice="af_heart", input="Hi.", response_format="wav", speed=4),
            client.images.generate(model="images", prompt="a fox", size="16x16", extra_body={"steps": 1, "seed": 1}),
        )
        assert said.choices[0].message.content
        assert seen.choices[0].message.content
        assert len(vectors.data) == 2
        assert heard.text
        assert spoken.content[:4] == b"RIFF"
        assert drawn.data is not None
        assert decoded(base64.b64decode(drawn.data[0].b64_json or "")).size == (16, 16)
    server.wait_until_idle()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lm", "vlm")])
async def test_the_wrong_kind_is_told_where_to_go(client: AsyncOpenAI, kind: str) -> None:
    with pytest.raises(BadRequestError, match=r"use /v1/") as refusal:
        await client.chat.completions.create(model=kind, messages=HELLO)
    assert refusal.value.param == "model"
