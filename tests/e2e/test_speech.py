import base64
import io
import json
import wave
from collections.abc import Iterator
from typing import Any

import av
import pytest
from openai import BadRequestError, OpenAI

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call
from tests.fixtures import tiny_bert

PATH = "/v1/audio/speech"
KOKORO = "tiny/kokoro"
BERT = "tiny/bert"
RATE = 24_000
# Two short sentences are said at once, two longer ones are not.
# Leaves each phoneme about one frame.
FAST = 4.0
SHORT = "Hi."
LONG = "The quick fox jumps over it. It is still a bit lazier."
# Minutes of work, even for the tiny model.
ENDLESS = {"model": KOKORO, "input": "The fox is quick. The dog is lazy. " * 115}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that speaks, and one that does not."""
    # Naming MLX costs a second: only those tests pay for it that need a model.
    from tests.fixtures import tiny_kokoro

    directory = tmp_path_factory.mktemp("server")
    models = [
        {"model_path": str(tiny_kokoro.write(directory / "kokoro")), "served_model_name": KOKORO, "mlx_warmup": False},
        {"model_path": str(tiny_bert.write(directory / "bert")), "served_model_name": BERT, "mlx_warmup": False},
    ]
    (directory / "models.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    with ServerProcess(directory, "--config", "models.yaml") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def decoded_s(audio: bytes) -> float:
    """Seconds of a file, as PyAV plays it."""
    with av.open(io.BytesIO(audio), "r") as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def timed(server: ServerProcess, text: str, **fields: object) -> dict[str, Any]:
    reply = server.post({"model": KOKORO, "input": text, "include_visemes": True, "speed": FAST, **fields}, PATH)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def whole(server: ServerProcess) -> dict[str, Any]:
    """Two sentences with their timings."""
    return timed(server, LONG, response_format="wav", voice="af_nova")


@pytest.fixture(scope="module")
def samples(whole: dict[str, Any]) -> bytes:
    with wave.open(io.BytesIO(base64.b64decode(whole["audio"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return file.readframes(file.getnframes())


def test_the_sdk_gets_a_file_of_each_format(client: OpenAI, server: ServerProcess) -> None:
    duration_s = timed(server, SHORT)["duration"]
    types = {"mp3": "mpeg", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}
    formats: tuple[Any, ...] = tuple(types)
    for audio_format in formats:
        reply = client.audio.speech.create(
            model=KOKORO, voice="af_heart", input=SHORT, response_format=audio_format, speed=FAST
        )
        assert reply.response.headers["content-type"] == f"audio/{types[audio_format]}"
        assert int(reply.response.headers["content-length"]) == len(reply.content)
        # What the codecs add at the ends is under a tenth of a second.
        assert decoded_s(reply.content) == pytest.approx(duration_s, abs=0.1), audio_format
    default = client.audio.speech.create(model=KOKORO, voice={"id": "bf_emma"}, input=SHORT, speed=FAST)
    assert default.response.headers["content-type"] == "audio/mpeg"


def test_a_stream_has_the_samples_of_the_whole(client: OpenAI, server: ServerProcess, samples: bytes) -> None:
    with client.audio.speech.with_streaming_response.create(
        model=KOKORO, voice="nova", input=LONG, response_format="pcm", speed=FAST
    ) as reply:
        assert "content-length" not in reply.headers
        pieces = list(reply.iter_bytes())
    assert b"".join(pieces) == samples
    assert len(pieces) > 1
    body = {"model": KOKORO, "input": LONG, "voice": "nova", "response_format": "wav", "speed": FAST}
    with wave.open(io.BytesIO(server.post(body, PATH).content)) as file:
        assert file.readframes(2**30) == samples


def test_events_carry_the_file(client: OpenAI, whole: dict[str, Any], samples: bytes) -> None:
    with client.audio.speech.with_streaming_response.create(
        model=KOKORO, voice="nova", input=LONG, response_format="pcm", speed=FAST, stream_format="sse"
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line.startswith("data: ")]
    *deltas, done = events
    assert [delta["type"] for delta in deltas] == ["speech.audio.delta"] * 2
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == samples
    assert done == {"type": "speech.audio.done", "usage": whole["usage"]}


def test_timings_cover_the_audio(whole: dict[str, Any], samples: bytes) -> None:
    assert whole["duration"] == len(samples) / 2 / RATE
    assert (whole["format"], whole["sample_rate"]) == ("wav", RATE)
    for kind in ("words", "phonemes", "visemes"):
        spans = whole[kind]
        assert spans[0]["start"] == 0
        assert [one["end"] for one in spans] == [*(one["start"] for one in spans[1:]), whole["duration"]]
    assert [word["word"] for word in whole["words"]] == LONG.split()
    assert {viseme["viseme"] for viseme in whole["visemes"]} <= set(range(22))
    usage = whole["usage"]
    assert usage["output_tokens"] == round(40 * whole["duration"])
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_the_same_request_gives_the_same_audio(server: ServerProcess) -> None:
    first, again = (timed(server, SHORT, response_format="pcm") for _ in range(2))
    other = timed(server, SHORT, response_format="pcm", seed=1)
    assert first == again
    assert other["audio"] != first["audio"]
    assert other["duration"] == first["duration"]


def test_voices_are_listed(server: ServerProcess) -> None:
    reply = server.get(f"/v1/audio/voices?model={KOKORO}").json()
    assert (reply["object"], reply["model"]) == ("list", KOKORO)
    assert reply["data"][-2:] == [
        {"id": "bf_emma", "object": "voice", "language": "en-GB", "gender": "female"},
        {"id": "ef_dora", "object": "voice", "language": "es-ES", "gender": "female"},
    ]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": "a" * 4097}, "input", "at most 4096"),
        ({"input": None}, "input", "string"),
        ({"input": "🎉 … 你好"}, "input", "nothing that can be pronounced"),
        ({"voice": "nobody"}, "voice", "af_heart, af_nova"),
        ({"voice": {"id": "nobody"}}, "voice", "af_heart, af_nova"),
        ({"voice": {"name": "af_heart"}}, "voice.id", "required"),
        ({"voice": "../../etc/passwd"}, "voice", "no voice"),
        ({"voice": "ef_dora"}, "voice", "es-ES"),
        ({"language": "tlh"}, "language", "en-US"),
        ({"response_format": "ogg"}, "response_format", "'mp3', 'opus'"),
        ({"speed": 0.2}, "speed", "0.25"),
        ({"speed": 4.1}, "speed", "4"),
        ({"speed": "fast"}, "speed", "number"),
        ({"instructions": "whisper"}, "instructions", "not supported"),
        ({"stream_format": "ws"}, "stream_format", "'audio' or 'sse'"),
        ({"stream_format": "sse", "include_visemes": True}, "stream_format", "not streamed"),
    ],
)
def test_bad_requests_are_refused(server: ServerProcess, fields: dict[str, object], param: str, said: str) -> None:
    reply = server.post({"model": KOKORO, "input": SHORT, **fields}, PATH)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_a_model_of_another_kind_names_its_endpoint(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings"):
        client.audio.speech.create(model=BERT, voice="af_heart", input=SHORT)
    with pytest.raises(BadRequestError, match="/v1/audio/speech"):
        client.embeddings.create(model=KOKORO, input=SHORT)


def test_who_hangs_up_frees_the_worker(server: ServerProcess) -> None:
    forms: tuple[dict[str, object], ...] = (
        {"response_format": "pcm"},
        {"stream_format": "sse"},
        {"include_visemes": True},
    )
    for fields in forms:
        with Call(server, ENDLESS | fields, PATH):
            server.wait_for_load(active=1, waiting=0, model=KOKORO)
        server.wait_until_idle(KOKORO)
    assert timed(server, SHORT)["duration"] > 0
