"""Forms of recordings, from the wire to the worker."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from app.api.audio.transcript_formats import TranscriptReply
from app.api.audio.transcriptions import _to_request
from app.api.forms import read_form
from app.core.requests import TranscriptionRequest
from app.errors import InvalidRequest
from app.schemas.transcriptions import RecordingFields, TranscriptionFields, TranslationFields

FILE = ("file", ("speech.wav", b"sound", "audio/wav"))
Parts = Sequence[tuple[str, Any]]


def posted(parts: Parts) -> Request:
    """A request with such a form, as a client encodes it."""
    sent = httpx.Request("POST", "http://x/", files=parts)
    body = sent.read()

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = [(name.lower().encode(), value.encode()) for name, value in sent.headers.items()]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def fields_of(*parts: tuple[str, str], model: type[RecordingFields] = TranscriptionFields) -> Any:
    form = await read_form(posted([FILE, *((name, (None, text)) for name, text in parts)]), model, ("file",))
    assert form.files == {"file": [b"sound"]}
    return form.fields


async def asked(*parts: tuple[str, str]) -> TranscriptionRequest:
    return _to_request(await fields_of(*parts), TranscriptReply("json"), [b"sound"])


async def refused(*parts: tuple[str, str], model: type[RecordingFields] = TranscriptionFields) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await fields_of(*parts, model=model)
    return caught.value


async def test_a_file_alone_is_a_request() -> None:
    assert await asked() == TranscriptionRequest(b"sound")


async def test_every_option_arrives() -> None:
    request = await asked(
        ("model", "whisper-1"),
        ("language", "de"),
        ("prompt", "Krapp, Hamm"),
        ("temperature", "0.4"),
        ("best_of", "3"),
        ("condition_on_previous_text", "false"),
        ("compression_ratio_threshold", "3"),
        ("logprob_threshold", "-2.5"),
        ("no_speech_threshold", "0.1"),
        ("clip_timestamps", "1.5,20"),
    )
    assert request == TranscriptionRequest(
        audio=b"sound",
        language="de",
        prompt="Krapp, Hamm",
        temperature=0.4,
        best_of=3,
        condition_on_previous_text=False,
        compression_ratio_threshold=3.0,
        logprob_threshold=-2.5,
        no_speech_threshold=0.1,
        clip=(1.5, 20.0),
    )


async def test_a_temperature_of_zero_is_the_first_one_tried() -> None:
    assert (await asked(("temperature", "0"))).temperature is None


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], None),
        ([("timestamp_granularities[]", "word")], ["word"]),
        ([("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")], ["word", "segment"]),
        ([("timestamp_granularities", "word")], ["word"]),
        ([("timestamp_granularities", "word,segment")], ["word", "segment"]),
    ],
)
async def test_granularities_are_a_list(parts: list[tuple[str, str]], expected: list[str] | None) -> None:
    assert (await fields_of(*parts)).timestamp_granularities == expected


@pytest.mark.parametrize(("text", "clip"), [("0", (0.0, None)), ("5", (5.0, None)), ("0,0.5", (0.0, 0.5))])
async def test_a_clip_has_a_begin_and_perhaps_an_end(text: str, clip: tuple[float, float | None]) -> None:
    assert (await asked(("clip_timestamps", text))).clip == clip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("response_format", "xml"),
        ("response_format", "diarized_json"),
        ("temperature", "1.1"),
        ("temperature", "-0.1"),
        ("temperature", "nan"),
        ("temperature", "warm"),
        ("stream", "perhaps"),
        ("best_of", "0"),
        ("best_of", "1.5"),
        ("best_of", "100"),
        ("timestamp_granularities[]", "letter"),
        ("clip_timestamps", "5,4"),
        ("clip_timestamps", "-1"),
        ("clip_timestamps", "nan"),
        ("clip_timestamps", "0,inf"),
        ("clip_timestamps", "1e300"),
        ("clip_timestamps", "0,5,20,25"),
        ("clip_timestamps", "later"),
        ("no_speech_threshold", "inf"),
    ],
)
async def test_a_wrong_value_is_named(name: str, text: str) -> None:
    error = await refused((name, text))
    assert error.param is not None
    assert error.param.partition("[")[0] == name.partition("[")[0]
    assert error.error_code == "invalid_value"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("include[]", "logprobs"),
        ("chunking_strategy", "server_vad"),
        ("chunking_strategy[type]", "server_vad"),
        ("known_speaker_names[]", "agent"),
        ("known_speaker_references[]", "data:audio/wav;base64,AA"),
        ("keywords[]", "Krapp"),
        ("languages[]", "en"),
        ("hotwords", "Krapp"),
        ("vad_filter", "true"),
        ("beam_size", "5"),
        ("seed", "1"),
        ("top_p", "0.5"),
        ("to_language", "fr"),
        ("repetition_penalty", "1.1"),
        ("hallucination_silence_threshold", "2"),
        ("without_timestamps", "true"),
    ],
)
async def test_what_is_not_supported_is_named(name: str, text: str) -> None:
    error = await refused((name, text))
    assert (error.param, error.error_code) == (name.partition("[")[0], "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chunking_strategy", "auto"),
        ("hotwords", ""),
        ("vad_filter", "false"),
        ("beam_size", "1"),
        ("top_p", "1"),
        ("top_k", "-1"),
        ("min_p", "0"),
        ("frequency_penalty", "0.0"),
        ("repetition_penalty", "1.0"),
        ("without_timestamps", "false"),
        ("something_else", "1"),
    ],
)
async def test_what_asks_for_nothing_is_taken(name: str, text: str) -> None:
    assert await asked((name, text)) == TranscriptionRequest(b"sound")


async def test_a_translation_has_no_granularities() -> None:
    error = await refused(("timestamp_granularities[]", "word"), model=TranslationFields)
    assert error.error_code == "unsupported_parameter"


@pytest.mark.parametrize("files", [[], [b"one", b"two"]])
async def test_there_is_one_file(files: list[bytes]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _to_request(await fields_of(), TranscriptReply("json"), files)
    assert caught.value.param == "file"


async def test_a_file_is_a_file_and_a_text_a_text() -> None:
    for parts in ([("file", (None, "speech.wav"))], [FILE, ("prompt", ("prompt.txt", b"Krapp"))]):
        with pytest.raises(InvalidRequest) as caught:
            await read_form(posted(parts), TranscriptionFields, ("file",))
        assert caught.value.param == parts[-1][0]
