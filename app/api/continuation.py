"""Answers that go on with a text which the client has begun."""

from msgspec.structs import replace

from app.core.conversation import Conversation
from app.core.requests import GenerationRequest
from app.errors import InvalidRequest


def continuing(conversation: Conversation, param: str = "messages") -> Conversation:
    """The conversation, its last message begun and not ended; there is no thinking in the middle of an answer.

    Errors: InvalidRequest when the last message is not an assistant's text.
    """
    last = conversation.messages[-1]
    if last.role != "assistant" or last.tool_calls or not last.content:
        raise InvalidRequest("To be continued, the last message must be an assistant's with text only.", param=param)
    return replace(conversation, continues_last=True, reasoning=replace(conversation.reasoning, is_enabled=False))


def check_is_free(asked: GenerationRequest) -> None:
    """Errors: InvalidRequest when what is begun would have to be of a form: the form is that of a whole answer."""
    if not isinstance(asked.prompt, Conversation) or not asked.prompt.continues_last:
        return
    tools = asked.prompt.tools
    if asked.output_format is not None or (tools is not None and tools.choice == "required"):
        raise InvalidRequest(
            "An answer that goes on with the last message's text cannot be held to a schema or to calls.",
            param="messages",
        )
