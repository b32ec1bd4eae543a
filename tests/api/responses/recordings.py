"""What is asked for and what a worker then says, beside the recordings that all protocols encode."""

from dataclasses import dataclass, field
from typing import Any

from app.core.events import (
    Candidate,
    ChoiceEnded,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from app.errors import ModelUnavailable, ServerError
from tests.fixtures.recordings import RECORDINGS
from tests.fixtures.recordings.calls import call

USAGE = Usage(5, 7, 3, 2)
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
TOOLS: list[Any] = [
    {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}, "strict": True},
    {"type": "custom", "name": "patch", "description": "Changes files.", "format": GRAMMAR},
    {"type": "web_search"},
    {
        "type": "namespace",
        "name": "mcp__disk",
        "description": "A disk.",
        "tools": [{"type": "function", "name": "read", "parameters": None}, {"type": "custom", "name": "write"}],
    },
]


@dataclass(frozen=True, slots=True)
class Recording:
    """A request's fields and the events of its generation; `ends_with` says what ended it, if it did not end itself."""

    events: list[Event]
    asked: dict[str, Any] = field(default_factory=dict[str, Any])
    ends_with: ServerError | str | None = None


def logprob(token: str) -> TokenLogprob:
    return TokenLogprob(token.encode(), -0.25, [Candidate(token.encode(), -0.25), Candidate(b"\xf0", -2.0)])


THOUGHT: list[Event] = [Started(5, 3), ReasoningDelta("Let me"), ReasoningDelta(" think."), TextDelta("42")]
ENDED: list[Event] = [ChoiceEnded("stop"), Finished(USAGE)]
CALLED: list[Event] = [ChoiceEnded("tool_calls"), Finished(USAGE)]
OWN_RECORDINGS = {
    "terms": Recording(
        [Started(5), TextDelta("Hi"), *ENDED],
        {
            "instructions": "Be brief.",
            "tools": TOOLS,
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read"}]},
            "parallel_tool_calls": False,
            "max_output_tokens": 50,
            "max_tool_calls": 3,
            "metadata": {"k": "v"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"x": None}}, "verbosity": "low"},
            "reasoning": {"effort": "low", "generate_summary": "auto"},
            "truncation": "auto",
            "temperature": 0.5,
            "top_p": 0.9,
            "presence_penalty": 1,
            "top_logprobs": 2,
            "store": False,
            "prompt_cache_key": "key",
            "safety_identifier": "me",
            "user": "you",
            "service_tier": "flex",
            "conversation": {"id": "conv_1"},
        },
    ),
    "previous": Recording([Started(5), TextDelta("Hi"), *ENDED], {"previous_response_id": "resp_0"}),
    "logprobs": Recording(
        [
            Started(5),
            TextDelta("", logprobs=[logprob("A")]),
            TextDelta("Ab", logprobs=[logprob("b")]),
            TextDelta("c", logprobs=[]),
            TextDelta("", logprobs=[logprob("!")]),
            *ENDED,
        ],
        {"include": ["message.output_text.logprobs"]},
    ),
    "summary_and_sealed": Recording(
        [*THOUGHT, *ENDED], {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    ),
    "custom_call": Recording(
        [Started(5), *call(0, "call_a", "patch", '{"input": "*** Begin\\n', '\\u00e9"}'), *CALLED], {"tools": TOOLS}
    ),
    "custom_call_of_something_else": Recording(
        [
            Started(5),
            *call(0, "call_a", "patch", '{"text": "x"}'),
            *call(1, "call_b", "patch", '{"input": ""}'),
            *CALLED,
        ],
        {"tools": TOOLS},
    ),
    "custom_call_cut_off": Recording(
        [
            Started(5),
            *call(0, "call_a", "patch", '{"input": "*** Be', is_whole=False),
            ChoiceEnded("length"),
            Finished(USAGE),
        ],
        {"tools": TOOLS},
    ),
    "namespaced_calls": Recording(
        [
            Started(5),
            *call(0, "call_a", "mcp__disk__read", "{}"),
            *call(1, "call_b", "mcp__disk__write", '{"input":"x"}'),
            *call(2, "call_c", "read", "{}"),
            *CALLED,
        ],
        {"tools": TOOLS},
    ),
    "call_that_was_none": Recording(
        [
            Started(5),
            *call(0, "call_a", "read", '{"path', is_whole=False),
            TextDelta('<call>read {"path</call>'),
            *call(1, "call_b", "read", "{}"),
            *CALLED,
        ],
        {"tools": TOOLS},
    ),
    "failure": Recording([*THOUGHT], {}, ModelUnavailable("It died.")),
    "failure_before_anything": Recording([], {}, ModelUnavailable("It died.")),
    "background": Recording([*THOUGHT, *ENDED], {"background": True}),
    "background_cancelled": Recording(
        [Started(5), *call(0, "call_a", "read", '{"pa', is_whole=False)], {"background": True}, "cancelled"
    ),
    "background_cancelled_in_the_queue": Recording([], {"background": True}, "cancelled"),
}
ALL_RECORDINGS = OWN_RECORDINGS | {name: Recording(events) for name, events in RECORDINGS.items()}
