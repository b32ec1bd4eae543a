import http.client
import json
import re
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from app.core.machine import openblas
from tests.e2e.processes import ServerProcess
from tests.fixtures import sound
from tests.fixtures.sound import RATE, whistle

PATH = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
TINY = "tiny/whisper"
REAL = "whisper-tiny.en"
TEXT = "Ever tried, ever failed. No matter, try again. Fail again. Fail better."
# Random weights are neither fluent nor sure of themselves: this takes what they say first.
CALM: dict[str, Any] = {"language": "en", "compression_ratio_threshold": 100, "logprob_threshold": -100}
SPEECH = sound.wav(whistle(3))
# More than one window of the model.
LONG = sound.wav(whistle(40))


def _noise(seconds: int) -> bytes:
    """A small file of much work: 8000 bytes a second, a model hears something else in it at every attempt."""
    data = (whistle(10)[::2] * 400 + 128).clip(0, 255).astype("u1").tobytes() * (seconds // 10)
    form = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    head = b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A Whisper of random weights that is quick, and a real one."""
    # Naming MLX costs a second: only those tests pay for it that need a model.
    from tests.fixtures import tiny_whisper

    directory = tmp_path_factory.mktemp("server")
    # What one of these weights hears is likely enough to have a logarithm, and another text in every language.
    tiny = str(tiny_whisper.write(directory / "whisper", tiny_whisper.Shape(sharpness=3, seed=3)))
    models = [
        {"model_path": tiny, "served_model_name": TINY, "mlx_warmup": False, "max_audio_seconds": 600},
        {"model_path": REAL, "mlx_warmup": False},
    ]
    (directory / "models.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    # Real weights take a quarter of the time where it is installed, and say the same.
    faster = {"LD_PRELOAD": str(openblas() or "")}
    with ServerProcess(directory, "--config", "models.yaml", environment=faster) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


def post(server: ServerProcess, file: bytes | None = SPEECH, path: str = PATH, /, **fields: object) -> httpx.Response:
    """A form as any client sends it."""
    request = _form(server, file, path, {"model": TINY, **fields})
    return server.send("POST", path, request.read(), **dict(request.headers))


def _form(server: ServerProcess, file: bytes | None, path: str, fields: dict[str, object]) -> httpx.Request:
    # A field that is no file has no name of one.
    parts: list[Any] = [(name, (None, str(value))) for name, value in fields.items()]
    files = [] if file is None else [("file", ("speech.wav", file, "audio/wav"))]
    return httpx.Request("POST", f"{server.url}{path}", files=[*parts, *files])


@contextmanager
def calling(server: ServerProcess, file: bytes, path: str, **fields: object) -> Generator[http.client.HTTPConnection]:
    """A request that was sent; leaving the block closes its connection."""
    request = _form(server, file, path, fields)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=40)
    connection.request("POST", path, request.read(), dict(request.headers))
    try:
        yield connection
    finally:
        connection.close()


def test_a_real_model_writes_down_what_a_speaker_says(client: OpenAI) -> None:
    reply = client.audio.transcriptions.create(
        model=REAL,
        file=("beckett.wav", sound.speaker()),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (reply.text, reply.language) == (TEXT, "english")
    assert reply.duration == pytest.approx(159_414 / RATE)
    segments = reply.segments or []
    assert "".join(segment.text for segment in segments).strip() == TEXT
    # Where the words are asked for, a segment lasts from its first to its last.
    assert [segment.start for segment in segments] == pytest.approx([0, 3.6, 6.7, 8.18], abs=0.1)
    assert [segment.end for segment in segments] == pytest.approx([2.74, 5.86, 7.44, 8.74], abs=0.1)
    words = reply.words or []
    assert [word.word for word in words] == TEXT.split()
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    before_pauses = [word.word for word, after in pairwise(words) if after.start - word.end > 0.5]
    assert before_pauses == ["tried,", "failed.", "matter,", "again.", "again."]


def _seconds(time: str) -> float:
    *minutes, seconds = time.replace(",", ".").split(":")
    return sum(int(part) * 60**power for power, part in enumerate(reversed(minutes), 1)) + float(seconds)


def _cues(subtitles: str) -> list[tuple[float, float, str]]:
    """Begin, end and text of each."""
    found = re.findall(r"^([\d:.,]+) --> ([\d:.,]+)\n(.*)\n$", subtitles, re.MULTILINE)
    return [(_seconds(begin), _seconds(end), text) for begin, end, text in found]


def test_every_format_says_the_same(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": TINY, "file": ("speech.wav", LONG), "extra_body": CALM}
    verbose = client.audio.transcriptions.create(**asked, response_format="verbose_json")
    segments = verbose.segments or []
    assert len({segment.seek for segment in segments}) > 1
    assert "".join(segment.text for segment in segments).strip() == verbose.text
    assert verbose.words is None
    plain = client.audio.transcriptions.create(**asked)
    assert plain.text == verbose.text
    assert plain.usage is not None
    assert plain.usage.to_dict() == {"type": "duration", "seconds": 40}
    assert client.audio.transcriptions.create(**asked, response_format="text") == f"{verbose.text}\n"
    expected = [(segment.start, segment.end, segment.text.strip()) for segment in segments]
    srt = client.audio.transcriptions.create(**asked, response_format="srt")
    vtt = client.audio.transcriptions.create(**asked, response_format="vtt")
    assert srt.startswith("1\n")
    assert vtt.startswith("WEBVTT\n\n")
    assert _cues(srt) == _cues(vtt) == expected


def test_a_stream_ends_in_the_text_of_the_whole(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": TINY, "file": ("speech.wav", LONG), "extra_body": CALM}
    whole = client.audio.transcriptions.create(**asked, response_format="verbose_json")
    *deltas, done = client.audio.transcriptions.create(**asked, stream=True)
    assert done.type == "transcript.text.done"
    assert done.text == whole.text
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == whole.text
    assert len(deltas) > 1
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    events = list(client.audio.transcriptions.create(**asked, stream=True, response_format="verbose_json"))
    spans = [(event.start, event.end, event.text) for event in events if event.type == "transcript.text.segment"]
    assert spans == [(segment.start, segment.end, segment.text) for segment in whole.segments or [] if segment.text]


def test_a_translation_is_english(client: OpenAI, server: ServerProcess) -> None:
    asked = {**CALM, "language": "de"}
    whole = post(server, SPEECH, TRANSLATIONS, **asked, response_format="verbose_json").json()
    assert (whole["task"], whole["language"]) == ("translate", "english")
    with pytest.deprecated_call():
        reply = client.audio.translations.create(  # pyright: ignore[reportDeprecated]
            model=TINY, file=("speech.wav", SPEECH), extra_body=asked
        )
    assert reply.text == whole["text"]
    assert post(server, SPEECH, TRANSLATIONS, **asked, response_format="text").text == f"{whole['text']}\n"
    # The model is asked for something else than its own transcript.
    assert post(server, **asked, response_format="verbose_json").json()["language"] == "german"
    assert post(server, **asked).json()["text"] != whole["text"]


@pytest.mark.parametrize(
    ("file", "fields", "param", "said"),
    [
        (None, {}, "file", "is missing"),
        (b"", {}, "file", "is empty"),
        (b"This is no recording.", {}, "file", "no audio or video file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), {}, "file", "no audio or video file"),
        (b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n", {}, "file", "no audio or video file"),
        (SPEECH[:44], {}, "file", "is cut off"),
        (SPEECH[: len(SPEECH) // 2], {}, "file", "is cut off"),
        (sound.wav(whistle(0.05)), {}, "file", "shorter than 0.1 s"),
        (_noise(610), {}, "file", "longer than the 600 s"),
        (SPEECH, {"language": "tlh"}, "language", "tlh"),
        (SPEECH, {"clip_timestamps": "5"}, "clip_timestamps", "after the recording's end"),
        (SPEECH, {"temperature": 2}, "temperature", "less than or equal to 1"),
        (SPEECH, {"response_format": "xml"}, "response_format", "'json', 'text'"),
        (SPEECH, {"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
        (SPEECH, {"response_format": "srt", "stream": "true"}, "stream", "not streamed"),
        (SPEECH, {"include[]": "logprobs"}, "include", "not supported"),
    ],
)
@pytest.mark.parametrize("streams", ["false", "true"])
def test_bad_requests_are_refused(
    server: ServerProcess, file: bytes | None, fields: dict[str, object], param: str, said: str, streams: str
) -> None:
    reply = post(server, file, **{"stream": streams, **fields})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]


def test_a_body_over_the_limit_is_refused(server: ServerProcess) -> None:
    reply = post(server, bytes(100_000_000))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_a_model_of_another_kind_names_its_endpoint(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="/v1/audio/transcriptions"):
        client.embeddings.create(model=TINY, input="hello")


def _completed(server: ServerProcess) -> list[int]:
    return [server.stats(model)["completed_requests"] for model in (TINY, REAL)]


def test_who_hangs_up_frees_the_worker(server: ServerProcess) -> None:
    """Of a recording that takes longer than anybody waits here: while it is read, and between two windows."""
    workers, completed = server.workers(), _completed(server)
    file = _noise(590)
    for path, fields in ((PATH, {}), (PATH, {"stream": "true"}), (TRANSLATIONS, {"response_format": "srt"})):
        with calling(server, file, path, model=REAL, **fields):
            server.wait_for_load(active=1, waiting=0, model=REAL)
        server.wait_until_idle(REAL)
    with calling(server, file, PATH, model=TINY, stream="true", language="en") as connection:
        assert connection.getresponse().readline().startswith(b"data: ")
    server.wait_until_idle(TINY)
    assert _completed(server) == completed
    # Nothing of all this has harmed anybody.
    assert server.workers() == workers
    assert post(server, **CALM).status_code == 200
    assert "Traceback" not in server.log()
