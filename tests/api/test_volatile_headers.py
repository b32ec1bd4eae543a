import pytest

from app.api.chat.routes import to_generation
from app.api.media.attachments import Attachments
from app.api.volatile_headers import without_volatile_headers
from app.core.conversation import Conversation
from app.schemas.chat import ChatCompletionRequest

LINE = "x-anthropic-billing-header: cc_version=2.1.15.c5a; cc_entrypoint=cli; cch=00000;"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LINE}\nYou are a coder.\n", "You are a coder.\n"),
        (f"\n {LINE}\n\nYou are a coder.", "You are a coder."),
        (f"{LINE.upper()}\r\nYou", "You"),
        (LINE, ""),
        ("", ""),
        (f"You are a coder.\n{LINE}\n", f"You are a coder.\n{LINE}\n"),
        ("x-anthropic-billing: 1\nYou", "x-anthropic-billing: 1\nYou"),
    ],
)
def test_the_line_goes_only_from_the_start(text: str, expected: str) -> None:
    assert without_volatile_headers(text) == expected


def test_only_system_prompts_are_looked_at() -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": f"{LINE}\nYou are a coder."},
        {"role": "developer", "content": [{"type": "text", "text": LINE}, {"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": f"{LINE}\nWhat is this?"},
    ]
    asked = to_generation(ChatCompletionRequest.model_validate({"messages": messages}), Attachments())
    assert isinstance(asked.prompt, Conversation)
    assert [message.content for message in asked.prompt.messages] == [
        "You are a coder.",
        "Be brief.",
        f"{LINE}\nWhat is this?",
    ]
