"""Media of the three protocols, at their places in the neutral conversation."""

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from app.api.chat.routes import to_generation
from app.api.media.attachments import translated
from app.api.media.reader import MediaLimits, MediaReader
from app.api.messages.routes import to_conversation
from app.api.responses.kept import read_input
from app.api.responses.order import to_order
from app.core.conversation import Conversation, Media, Message, ToolCall
from app.core.store import open_store
from app.errors import InvalidRequest
from app.schemas.chat import ChatCompletionRequest
from app.schemas.messages import MessagesRequest
from app.schemas.responses import ResponseRequest
from app.settings import Settings

PICTURE = b"\x89PNG\r\n\x1a\n one"
OTHER = b"GIF89a two"
SOUND = b"RIFF\n\n\0\0WAVEfmt "
FILM = b"\0\0\0\x18ftypmp42"
READER = MediaReader(MediaLimits(max_count=9, max_bytes=1000, max_total_bytes=1000, timeout_s=20))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes) -> str:
    # Whatever type a client claims.
    return f"data:image/jpeg;base64,{base64_of(data)}"


async def chat(*messages: dict[str, Any]) -> list[Message]:
    body = ChatCompletionRequest.model_validate_json(json.dumps({"messages": messages}))

    prompt = (await translated(lambda attachments: to_generation(body, attachments), READER.read)).prompt
    assert isinstance(prompt, Conversation)
    return prompt.messages


async def anthropic(*messages: dict[str, Any]) -> list[Message]:
    body = MessagesRequest.model_validate_json(json.dumps({"messages": messages, "max_tokens": 1}))
    return (await translated(lambda attachments: to_conversation(body, attachments), READER.read)).messages


async def responses(*items: dict[str, Any]) -> list[Message]:
    body = ResponseRequest.model_validate_json(json.dumps({"input": items}))
    given = await read_input(open_store(Settings(store_in_memory=True)), body, ())
    order = await translated(lambda attachments: to_order(body, given, attachments), READER.read)
    return order.conversation.messages


def places(message: Message) -> list[str]:
    return [one.place for one in message.media]


def unplaced(messages: list[Message]) -> list[Message]:
    """The messages without where their media were in the request, which each test would repeat."""
    return [replace(one, media=tuple(replace(medium, place="") for medium in one.media)) for one in messages]


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


class TestChat:
    async def test_parts_are_media_where_they_stand(self) -> None:
        parts = [
            {"type": "image_url", "image_url": {"url": url(PICTURE), "detail": "high"}},
            {"type": "text", "text": "Grüße 🎉"},
            {"type": "image_url", "image_url": url(OTHER)},
            {"type": "video_url", "video_url": {"url": url(FILM)}},
            {"type": "text", "text": " and "},
            {"type": "input_audio", "input_audio": {"data": base64_of(SOUND), "format": "wav"}},
            {"type": "audio_url", "audio_url": {"url": url(SOUND)}},
            {"type": "image_url", "image_url": {"url": url(PICTURE), "detail": "original"}},
            {"type": "image_url", "image_url": {"url": url(PICTURE), "detail": "low"}},
        ]
        media = (
            Media("image", PICTURE, 0, "high"),
            Media("image", OTHER, 7),
            Media("video", FILM, 7),
            Media("audio", SOUND, 12),
            Media("audio", SOUND, 12),
            Media("image", PICTURE, 12, "high"),
            Media("image", PICTURE, 12, "low"),
        )
        messages = await chat(user(*parts), user({"type": "text", "text": "x"}))
        assert unplaced(messages) == [Message("user", "Grüße 🎉 and ", media=media), Message("user", "x")]
        assert places(messages[0])[:2] == ["messages[0].content[0].image_url", "messages[0].content[2].image_url"]
        assert places(messages[0])[3] == "messages[0].content[5].input_audio"

    @pytest.mark.parametrize(
        ("part", "field"),
        [
            ({"type": "video_url", "video_url": {"url": url(FILM)}}, "video_url"),
            ({"type": "input_video", "video_url": url(FILM)}, "video_url"),
            ({"type": "input_video", "video": {"url": url(FILM)}}, "video"),
            ({"type": "video", "video": url(FILM)}, "video"),
        ],
    )
    async def test_films_as_other_servers_have_them(self, part: dict[str, Any], field: str) -> None:
        (message,) = await chat(user({"type": "text", "text": "see"}, part))
        assert message.media == (Media("video", FILM, 3, place=f"messages[0].content[1].{field}"),)

    @pytest.mark.parametrize(("kind", "field"), [("video", "video"), ("input_video", "video_url")])
    async def test_a_film_that_is_missing(self, kind: str, field: str) -> None:
        with pytest.raises(InvalidRequest, match=f"of type '{kind}' needs '{field}'") as caught:
            await chat(user({"type": kind}))
        assert caught.value.param == f"messages[0].content[0].{field}"

    async def test_a_tool_may_show_something(self) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        shown = {"type": "image_url", "image_url": url(PICTURE)}
        asked = {"role": "tool", "tool_call_id": "1", "content": [shown]}
        _, result = unplaced(await chat({"role": "assistant", "tool_calls": [call]}, asked))
        assert result == Message("tool", "", tool_call_id="1", media=(Media("image", PICTURE, 0),))

    @pytest.mark.parametrize(
        ("part", "param"),
        [
            ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url"),
            ({"type": "image_url", "image_url": "https://example.com/x.png"}, "image_url"),
            ({"type": "image_url", "image_url": url(SOUND)}, "image_url"),
            ({"type": "video_url", "video_url": {"url": url(PICTURE)}}, "video_url"),
            ({"type": "input_audio", "input_audio": {"data": url(SOUND), "format": "wav"}}, "input_audio"),
            ({"type": "input_audio", "input_audio": {"data": base64_of(PICTURE), "format": "wav"}}, "input_audio"),
        ],
    )
    async def test_a_part_that_cannot_be_read_is_named(self, part: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await chat(user({"type": "text", "text": "x"}), user({"type": "text", "text": "x"}, part))
        assert caught.value.param == f"messages[1].content[1].{param}"


class TestMessages:
    def image(self, data: bytes) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64_of(data)}}

    async def test_blocks_are_media_where_they_stand(self) -> None:
        text = {"type": "text", "text": "two"}
        linked = {"type": "image", "source": {"type": "url", "url": url(OTHER)}}
        first = user(self.image(PICTURE), {"type": "text", "text": "one"}, self.image(OTHER), text, linked)
        # Of one user in a row, and so one message.
        messages = await anthropic(first, user(self.image(PICTURE)), user(self.image(OTHER), text))
        sources = [(0, 0, "data"), (0, 2, "data"), (0, 4, "url"), (1, 0, "data"), (2, 0, "data")]
        expected = [f"messages[{message}].content[{part}].source.{field}" for message, part, field in sources]
        assert places(messages[0]) == expected
        assert unplaced(messages) == [
            Message(
                "user",
                "one\ntwo\ntwo",
                media=(
                    Media("image", PICTURE, 0),
                    Media("image", OTHER, 3),
                    Media("image", OTHER, 7),
                    Media("image", PICTURE, 7),
                    Media("image", OTHER, 8),
                ),
            )
        ]

    async def test_a_picture_alone_is_a_message(self) -> None:
        messages = unplaced(await anthropic(user(self.image(PICTURE))))
        assert messages == [Message("user", "", media=(Media("image", PICTURE, 0),))]

    @pytest.mark.parametrize(("is_error", "prefix"), [(False, ""), (True, "Error: ")])
    async def test_a_result_may_show_something(self, is_error: bool, prefix: str) -> None:
        call = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
        content = [{"type": "text", "text": "seen"}, self.image(PICTURE)]
        result = {"type": "tool_result", "tool_use_id": "1", "content": content, "is_error": is_error}
        asked = [{"role": "assistant", "content": [call]}, user(self.image(OTHER), result)]
        messages = await anthropic(*asked)
        assert places(messages[1]) == ["messages[1].content[1].content[1].source.data"]
        assert unplaced(messages) == [
            Message("assistant", "", tool_calls=(ToolCall("1", "look", "{}"),)),
            Message("tool", f"{prefix}seen", tool_call_id="1", media=(Media("image", PICTURE, len(prefix) + 4),)),
            Message("user", "", media=(Media("image", OTHER, 0),)),
        ]

    @pytest.mark.parametrize(
        ("source", "field"),
        [
            ({"type": "base64", "data": "!"}, "data"),
            ({"type": "base64", "data": base64_of(SOUND)}, "data"),
            ({"type": "url", "url": "http://127.0.0.1/"}, "url"),
        ],
    )
    async def test_a_source_that_cannot_be_read_is_named(self, source: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await anthropic(user({"type": "image", "source": source}))
        assert caught.value.param == f"messages[0].content[0].source.{field}"


class TestResponses:
    async def test_parts_are_media_where_they_stand(self) -> None:
        parts = [
            {"type": "input_text", "text": "one"},
            {"type": "input_image", "image_url": url(PICTURE), "detail": "low"},
            {"type": "input_text", "text": "two"},
            {"type": "input_audio", "input_audio": {"data": base64_of(SOUND), "format": "wav"}},
        ]
        media = (Media("image", PICTURE, 3, "low"), Media("audio", SOUND, 6))
        messages = await responses(user(*parts))
        assert unplaced(messages) == [Message("user", "onetwo", media=media)]
        assert places(messages[0]) == ["input[0].content[1].image_url", "input[0].content[3].input_audio"]

    async def test_an_output_may_show_something(self) -> None:
        call = {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
        shown = {"type": "input_image", "image_url": url(PICTURE), "detail": "auto"}
        output = {"type": "function_call_output", "call_id": "1", "output": [shown]}
        _, result = unplaced(await responses(call, output))
        assert result == Message("tool", "", tool_call_id="1", media=(Media("image", PICTURE, 0),))

    async def test_a_part_that_cannot_be_read_is_named(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await responses(user({"type": "input_image", "image_url": "https://example.com/x.png"}))
        assert caught.value.param == "input[0].content[0].image_url"
