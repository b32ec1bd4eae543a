"""Every recording through the encoders of chat, completions, messages and responses.

Text completions have the recordings of plain text alone: a raw prompt is answered without a reader of markup, so its
encoder never meets a thought or a call. It has some of its own beside them, with echo and with several choices. The
official clients read messages and responses in the tests of those encoders.
"""

from typing import Any

import pytest
from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletionMessageParam

from tests.api.golden_transcripts import GOLDEN, TRANSCRIPTS, chat, completions
from tests.fixtures.openai_client import openai_client
from tests.fixtures.recordings import RECORDINGS
from tests.fixtures.recordings.texts import TEXTS

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_is_the_golden_transcript(name: str) -> None:
    """Byte for byte, but for ids and times."""
    assert TRANSCRIPTS[name]() == (GOLDEN / name).read_bytes().decode()


def test_no_transcript_is_left_over() -> None:
    assert {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*.txt")} == TRANSCRIPTS.keys()


def read_chat(stream: bytes) -> dict[str, Any]:
    """What the client puts together from the chunks, as the whole reply would have it."""
    with (
        openai_client(stream) as opened,
        opened.chat.completions.stream(model="tiny", messages=ASKED, stream_options={"include_usage": True}) as events,
    ):
        read = events.until_done().current_completion_snapshot.model_dump(exclude_none=True)
    message = read["choices"][0]["message"]
    for place, call in enumerate(message.get("tool_calls", ())):
        assert call.pop("index") == place
    # That there is nothing but calls is known at the end of a stream only, which begins with an empty text.
    if message.get("tool_calls") and message["content"] == "":
        del message["content"]
    return read


@pytest.mark.parametrize("name", RECORDINGS)
def test_openais_client_reads_the_same_chat_from_both(name: str) -> None:
    stream, reply = chat(RECORDINGS[name])
    with openai_client(reply) as opened:
        whole = opened.chat.completions.create(model="tiny", messages=ASKED)
    assert read_chat(stream) == whole.model_dump(exclude_none=True)


def read_completion(stream: bytes) -> Completion:
    """The chunks put together. OpenAI's type lacks the null that OpenAI sends for a reason that is not known yet."""
    stream = stream.replace(b'"finish_reason":null', b'"finish_reason":"content_filter"')
    with openai_client(stream) as opened:
        *chunks, last = opened.completions.create(model="tiny", prompt="x", stream=True)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.finish_reason for choice in choices[:-1]] == ["content_filter"] * (len(choices) - 1)
    text = "".join(choice.text for choice in choices)
    joined = CompletionChoice(index=0, text=text, logprobs=None, finish_reason=choices[-1].finish_reason)
    assert last.choices == []
    return last.model_copy(update={"choices": [joined]})


@pytest.mark.parametrize("name", TEXTS)
def test_openais_client_reads_the_same_completion_from_both(name: str) -> None:
    stream, reply = completions(TEXTS[name])
    with openai_client(reply) as opened:
        whole = opened.completions.create(model="tiny", prompt="x")
    assert read_completion(stream).to_dict() == whole.to_dict()
