"""A conversation, and what may be done in its next turn, in no protocol's words."""

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
MediaKind = Literal["image", "video", "audio"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ToolCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that the model made in an earlier turn; `arguments` is JSON text, as it was given."""

    id: str
    name: str
    arguments: str


class Media(msgspec.Struct, frozen=True, array_like=True):
    """A picture, film or sound in a message: the bytes of its file, and how many characters of text stand before it.

    `detail` is how closely a picture is looked at, `place` where it is in the client's request.
    """

    kind: MediaKind
    data: bytes
    position: int
    detail: Literal["auto", "low", "high"] = "auto"
    place: str = ""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One turn of a conversation: its text, and the `media` in it in the order of their places.

    `tool_calls` and `reasoning` are an assistant's, `tool_call_id` says which call a tool's content answers.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    media: tuple[Media, ...] = ()


class Tool(msgspec.Struct, frozen=True, array_like=True):
    """A function that the model may call.

    `parameters` is a JSON schema of an object as JSON text, its keys in the client's order. The arguments of a `strict`
    one always keep to it.
    """

    name: str
    description: str | None = None
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool = False


class ToolUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tools there are, and how free the model is.

    With "auto" it may call, with "required" it must, with "none" it cannot and the prompt does not mention tools.
    `allowed` are the names that it may call, None for all: a named function is "required" with one name. Without
    `is_parallel` it makes one call at most.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "none", "required"] = "auto"
    allowed: tuple[str, ...] | None = None
    is_parallel: bool = True


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model thinks before it answers; None leaves it to the model and its template.

    After `max_tokens` of thinking the answer is begun for it.
    """

    is_enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: int | None = None


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True, tag="conversation"):
    """Messages that the model's chat template turns into a prompt; `template_arguments` are further variables of it.

    Unless it `opens_answer`, the prompt ends where the last message does. With `continues_last` the last message is an
    assistant's, and the answer goes on with its text, without thinking first.
    """

    messages: list[Message]
    tools: ToolUse | None = None
    reasoning: Reasoning = Reasoning()
    template_arguments: dict[str, object] = {}
    opens_answer: bool = True
    continues_last: bool = False


class RawPrompt(msgspec.Struct, frozen=True, omit_defaults=True, tag="raw"):
    """A prompt as it is, a text or its token ids; with `suffix` the answer is what belongs between the two.

    A text gets the special tokens that the tokenizer begins a text with, unless told not to. If it `is_echoed`, every
    answer begins with it, and so do the log-probabilities where they are asked for.
    """

    text: str | list[int]
    suffix: str | None = None
    adds_special_tokens: bool = True
    is_echoed: bool = False
