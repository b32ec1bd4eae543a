"""What the soak asks, what it reads of replies, and how it judges them."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from app.bench.call import Call
from app.bench.prompts import Prompts
from bench.soak.cases import Case, Form, cases, fresh, stopped
from bench.soak.judge import faults
from bench.soak.reply import Choice, Reply, read_reply

PLAIN = Case("plain", {"messages": [], "max_tokens": 5})
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}


def test_cases_are_the_same_each_time_and_of_every_kind() -> None:
    asked = [case.request(streams=False) for case in cases(1, 2)]
    assert asked == [case.request(streams=False) for case in cases(1, 2)]
    assert asked != [case.request(streams=False) for case in cases(2, 2)]
    assert len(asked) == 2 * len({case.kind for case in cases(1, 2)})
    body = json.loads(cases(1, 2)[0].request(streams=True))
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert fresh(Prompts(1)).body != fresh(Prompts(2)).body


def test_a_stop_string_cuts_the_answer_where_it_is_first_found() -> None:
    case, expected = stopped(PLAIN, "la la la land", random.Random(3))
    stop = json.loads(case.request(streams=False))["stop"][0]
    assert "la la la land".startswith(expected + stop)
    assert stop not in expected


def answered(body: bytes, status: int = 200) -> Call:
    """A call that has brought this."""
    call = Call(b"", 1)
    call.status = status
    call.pieces = [(0.0, body)]
    return call


UNARY = {
    "choices": [
        {"message": {"content": "one"}, "finish_reason": "stop", "logprobs": {"content": [{"bytes": [111]}]}},
        {"message": {"content": "two"}, "finish_reason": "length", "logprobs": None},
    ],
    "usage": USAGE,
}


def piece(index: int, text: str | None, reason: str | None = None, logprobs: object = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
    return b"data: " + json.dumps({"choices": [choice], "usage": None}).encode() + b"\n\n"


def test_a_stream_and_a_reply_in_one_piece_say_the_same() -> None:
    counted = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    events = [
        *(piece(0, "on", None, {"content": [{"bytes": [111]}]}), piece(1, "two"), piece(0, "e"), b": keep-alive\n\n"),
        *(piece(1, None, "length"), piece(0, None, "stop"), counted, b"data: [DONE]\n\n"),
    ]
    streamed = read_reply(answered(b"".join(events)), streams=True)
    assert streamed == read_reply(answered(json.dumps(UNARY).encode()), streams=False)
    assert streamed.texts == ["one", "two"]
    assert not streamed.faults


def test_a_refusal_after_a_long_wait_is_one_all_the_same() -> None:
    refusal = b'data: {"error":{"message":"m","type":"invalid_request_error"}}\n\n'
    late = read_reply(answered(b": keep-alive\n\n" + refusal), streams=True)
    assert (late.status, late.faults) == (400, [])
    assert read_reply(answered(refusal), streams=True).faults
    assert read_reply(answered(b": keep-alive\n\n" + piece(0, "a") + refusal), streams=True).faults


@pytest.mark.parametrize(
    ("call", "streams", "says"),
    [
        (answered(b"oops", 500), True, "no JSON"),
        (answered(b'{"detail": "x"}', 404), False, "without a message"),
        (answered(piece(0, "a", "stop")), True, "ended with"),
        (answered(b""), True, "ended with"),
        (answered(b'data: {"error": {"message": "m"}}\n\ndata: [DONE]\n\n'), True, "an error in the stream"),
    ],
)
def test_replies_that_are_none(call: Call, streams: bool, says: str) -> None:
    (fault,) = read_reply(call, streams=streams).faults
    assert says in fault


def reply(text: str = "one", **changes: Any) -> Reply:
    return replace(Reply(200, [Choice(text, ["stop"])], USAGE), **changes)


def logprob(text: str, *values: float) -> dict[str, Any]:
    return {"bytes": list(text.encode()), "top_logprobs": [{"logprob": value} for value in values]}


SAYING = replace(PLAIN, body={**PLAIN.body, "logprobs": True})
TREE = Form(schema={"type": "object", "required": ["a"]})


@pytest.mark.parametrize(
    ("case", "given", "expected", "says"),
    [
        (PLAIN, reply(), None, None),
        (PLAIN, reply(), ["one"], None),
        (PLAIN, reply(), ["two"], "alone"),
        (PLAIN, reply(status=429), None, "429 instead of 200"),
        (replace(PLAIN, status=400), reply(), None, "200 instead of 400"),
        (PLAIN, reply(faults=["broken"]), None, "broken"),
        (replace(PLAIN, body={"max_tokens": 5, "n": 3}), reply(), None, "1 answers instead of 3"),
        (PLAIN, reply(choices=[Choice("one", ["stop", "stop"])]), None, "it ended with"),
        (PLAIN, reply(choices=[Choice("one")]), None, "it ended with"),
        (replace(PLAIN, kind="stop"), reply(choices=[Choice("one", ["length"])]), None, "its stop string"),
        (PLAIN, reply(usage=None), None, "no usage"),
        (PLAIN, reply(usage=USAGE | {"completion_tokens": 6}), None, "impossible usage"),
        (PLAIN, reply(usage=USAGE | {"prompt_tokens": 6}), None, "impossible usage"),
        (replace(PLAIN, form=TREE), reply('{"a": 1}'), None, None),
        (replace(PLAIN, form=TREE), reply('{"b": 1}'), None, "not of its form"),
        (replace(PLAIN, form=TREE), reply('{"a": 1'), None, "not of its form"),
        (replace(PLAIN, form=Form(pattern="o.e")), reply(), None, None),
        (replace(PLAIN, form=Form(pattern="o.")), reply(), None, "not of its form"),
        (replace(PLAIN, form=Form(choices=("one", "two"))), reply(), None, None),
        (replace(PLAIN, form=Form(choices=("two",))), reply(), None, "not of its form"),
        (SAYING, reply(choices=[Choice("é!", ["stop"], [logprob("é", -1, -2), logprob("!", -1)])]), None, None),
        (SAYING, reply(choices=[Choice("é!", ["stop"], [logprob("é", -1, -2)])]), None, "the tokens with"),
        (SAYING, reply(choices=[Choice("é", ["stop"], [logprob("é", -2, -1)])]), None, "not in order"),
    ],
)
def test_each_fault_is_found(case: Case, given: Reply, expected: list[str] | None, says: str | None) -> None:
    found = faults(case, given, expected)
    assert len(found) == (says is not None)
    assert says is None or says in found[0]
