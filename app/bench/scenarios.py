"""One round of each measurement. All raise CallFailed when the server does not do what it takes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Final

from app.bench.call import Call
from app.bench.endpoint import CallFailed
from app.bench.figures import ConstrainedFigures, InterferenceFigures, PrefixFigures
from app.bench.prompts import Prompts
from app.bench.server import Messages, Server, asking
from app.bench.stream import Stream, read_stream, refusal

# With the template around them about 1,000 tokens of a usual vocabulary.
CONVERSATION_WORDS: Final = 950
NEW_WORDS: Final = 60
NEWCOMER_WORDS: Final = 800
NUM_NEIGHBOURS: Final = 3
_ANSWER_TOKENS: Final = 32
# Of a first answer only the beginning is measured; the second token shows that the first has come.
_FEW_TOKENS: Final = 2
# A stream that another is measured beside has arrived so many times by then, and goes on for long enough.
_ARRIVALS_TO_COMPARE: Final = 32
_ARRIVALS_TO_BEGIN: Final = 3
_RUNNING_TOKENS: Final = 2048
# What a server needs to notice that a client is gone.
_SETTLE_S: Final = 0.3

# No answer to it ends before its tokens do.
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "chapters": {
            "type": "array",
            "minItems": 200,
            "items": {
                "type": "object",
                "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
                "required": ["title", "pages"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["chapters"],
    "additionalProperties": False,
}
CONSTRAINT: Final[Mapping[str, object]] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "book", "schema": _SCHEMA}}
}
_PLAIN: Final[Mapping[str, object]] = {}


async def gather(server: Server, texts: Sequence[str], num_tokens: int) -> list[Stream]:
    """The streams of all texts; they are read when the last has ended."""
    calls: list[Call] = []
    try:
        calls += await asyncio.gather(*(server.begin(asking(text), num_tokens) for text in texts))
        await asyncio.gather(*(call.wait() for call in calls))
    finally:
        for call in calls:
            call.hang_up()
    return [read_stream(call) for call in calls]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A first turn that was answered."""

    messages: Messages
    first_turn: Stream


async def first_turn(server: Server, prompts: Prompts) -> Conversation:
    """Begin a conversation of about a thousand tokens."""
    asked = asking(f"{prompts.words(CONVERSATION_WORDS)}. What is this about?")
    answer = await server.stream(asked, _ANSWER_TOKENS)
    return Conversation([*asked, {"role": "assistant", "content": answer.text}], answer)


async def second_turn(server: Server, prompts: Prompts, conversation: Conversation) -> PrefixFigures:
    """Go on with it, and ask as many new tokens alone."""
    alone = await server.stream(asking(prompts.words(NEW_WORDS)), _FEW_TOKENS)
    second = await server.stream([*conversation.messages, *asking(prompts.words(NEW_WORDS))], _FEW_TOKENS)
    # The second turn has more than its words to compute: what ends the answer before, and begins a message.
    if (num_more := second.num_new_tokens - alone.num_new_tokens) > 0:
        alone = await server.stream(asking(prompts.words(NEW_WORDS + num_more)), _FEW_TOKENS)
    asked, cached = second.num_prompt_tokens, second.num_cached_tokens
    return PrefixFigures(
        first_turn_ttft_s=conversation.first_turn.ttft_s,
        second_turn_ttft_s=second.ttft_s,
        new_tokens_ttft_s=alone.ttft_s,
        num_prompt_tokens=asked,
        cached_share=cached / asked if asked and cached is not None else None,
    )


async def prefix(server: Server, prompts: Prompts) -> PrefixFigures:
    """Both turns of a conversation."""
    return await second_turn(server, prompts, await first_turn(server, prompts))


async def interference(server: Server, prompts: Prompts) -> InterferenceFigures:
    """A long prompt arrives beside a running stream; the like of it has been asked alone before."""
    alone = await server.stream(asking(prompts.words(NEWCOMER_WORDS)), _FEW_TOKENS)
    async with _running(server, [prompts.story()], _PLAIN, _ARRIVALS_TO_COMPARE) as (call,):
        newcomer = await server.stream(asking(prompts.words(NEWCOMER_WORDS)), _FEW_TOKENS)
        running = read_stream(call, may_be_cut=True)
    before_s = [gap for moment, gap in _gaps(running) if moment <= newcomer.started_s]
    after_s = [gap for moment, gap in _gaps(running) if moment > newcomer.started_s]
    if not before_s or not after_s:
        raise CallFailed("the running stream ended before the long prompt came")
    return InterferenceFigures(median(before_s), max(after_s), alone.ttft_s, newcomer.ttft_s)


def _gaps(stream: Stream) -> list[tuple[float, float]]:
    """The end and the length of each gap."""
    return [(after, after - before) for before, after in pairwise(stream.times_s) if after > before]


async def constrained(server: Server, prompts: Prompts, num_tokens: int) -> ConstrainedFigures:
    """A JSON schema's cost for its own stream, and for a plain one beside three."""
    plain = await server.stream(asking(prompts.story()), num_tokens)
    bound = await server.stream(asking(prompts.story()), num_tokens, **CONSTRAINT)
    if not keeps_to_schema(bound.text):
        raise CallFailed("the server took the JSON schema and did not keep to it")
    return ConstrainedFigures(
        plain_tokens_per_s=plain.tokens_per_s,
        constrained_tokens_per_s=bound.tokens_per_s,
        beside_plain_tokens_per_s=await _speed_beside(server, prompts, num_tokens, _PLAIN),
        beside_constrained_tokens_per_s=await _speed_beside(server, prompts, num_tokens, CONSTRAINT),
    )


def keeps_to_schema(text: str) -> bool:
    """Whether the beginning of an answer is one to the schema: some servers accept it and do nothing."""
    start, written = '{"chapters":[{"', "".join(text.split())
    return bool(written) and (written.startswith(start) or start.startswith(written))


async def _speed_beside(
    server: Server, prompts: Prompts, num_tokens: int, fields: Mapping[str, object]
) -> float | None:
    """A plain stream's speed while others run."""
    async with _running(server, prompts.stories(NUM_NEIGHBOURS), fields, _ARRIVALS_TO_BEGIN) as neighbours:
        stream = await server.stream(asking(prompts.story()), num_tokens)
        if any(call.is_over for call in neighbours):
            raise CallFailed("the answers beside which one was to be measured ended first")
    return stream.tokens_per_s


@asynccontextmanager
async def _running(
    server: Server, texts: Sequence[str], fields: Mapping[str, object], num_arrivals: int
) -> AsyncGenerator[list[Call]]:
    """Streams that have begun; they are hung up in the end."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.sleep, _SETTLE_S)
        calls: list[Call] = []
        for text in texts:
            call = await server.begin(asking(text), _RUNNING_TOKENS, **fields)
            stack.callback(call.hang_up)
            calls.append(call)
        for call in calls:
            await call.wait(num_arrivals)
            if call.status != 200:
                raise refusal(call)
        yield calls
