"""A conversation that does not fit, with less and less of its beginning."""

from collections.abc import Iterator

import msgspec

from app.core.conversation import Conversation, Message
from app.core.requests import GenerationRequest


def shortened(request: GenerationRequest) -> Iterator[GenerationRequest]:
    """The request without its oldest turns: one, three, seven and so on, until only the last is left.

    System messages stay. A tool's answer goes with its call, and what is left begins with a user's message where there
    is one.
    """
    if not isinstance(request.prompt, Conversation):
        return
    messages = request.prompt.messages
    turns = _turns(messages)
    num_dropped, step = 0, 1
    while num_dropped < len(turns) - 1:
        num_dropped = _start(messages, turns, min(num_dropped + step, len(turns) - 1))
        step *= 2
        dropped = {index for turn in turns[:num_dropped] for index in turn}
        kept = [message for index, message in enumerate(messages) if index not in dropped]
        yield msgspec.structs.replace(request, prompt=msgspec.structs.replace(request.prompt, messages=kept))


def _turns(messages: list[Message]) -> list[list[int]]:
    """Indices of messages that can only go together."""
    turns: list[list[int]] = []
    for index, message in enumerate(messages):
        if message.role == "tool" and turns:
            turns[-1].append(index)
        elif message.role != "system":
            turns.append([index])
    return turns


def _start(messages: list[Message], turns: list[list[int]], num_dropped: int) -> int:
    """So many turns, and those up to the next user's message."""
    users = [number for number, turn in enumerate(turns) if messages[turn[0]].role == "user" and number >= num_dropped]
    return users[0] if users else num_dropped
