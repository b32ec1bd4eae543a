"""Whether a reply is right: each fault is a sentence."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema

from bench.soak.cases import Case, Form
from bench.soak.reply import Choice, Reply

_MOST_CHARS = 200


def faults(case: Case, reply: Reply, expected: Sequence[str] | None) -> list[str]:
    """What is wrong with it; `expected` are the texts that it must have, where that is known."""
    return [f"{case.kind}: {fault}"[:_MOST_CHARS] for fault in _faults(case, reply, expected)]


def _faults(case: Case, reply: Reply, expected: Sequence[str] | None) -> Iterator[str]:
    yield from reply.faults
    if reply.status != case.status:
        yield f"the status is {reply.status} instead of {case.status}"
    if reply.faults or reply.status != 200 or case.status != 200:
        return
    if len(reply.choices) != case.body.get("n", 1):
        yield f"{len(reply.choices)} answers instead of {case.body.get('n', 1)}"
    if expected is not None and reply.texts != list(expected):
        yield f"not the answer it got alone: {reply.texts} instead of {list(expected)}"
    for choice in reply.choices:
        yield from _of_choice(case, choice)
    yield from _of_usage(case, reply)


def _of_choice(case: Case, choice: Choice) -> Iterator[str]:
    if choice.reasons not in (["stop"], ["length"]):
        yield f"it ended with {choice.reasons}"
    if not is_of(case.form, choice.text):
        yield f"not of its form: {choice.text!r}"
    if case.kind == "stop" and choice.reasons != ["stop"]:
        yield f"its stop string was not found in {choice.text!r}"
    if case.body.get("logprobs"):
        written = b"".join(bytes(token["bytes"]) for token in choice.logprobs).decode("utf-8", "replace")
        if written != choice.text:
            yield f"the tokens with log-probabilities are {written!r} and the text is {choice.text!r}"
        if not all(_is_sorted(token["top_logprobs"]) for token in choice.logprobs):
            yield "the likeliest tokens are not in order"


def _is_sorted(top: Sequence[dict[str, Any]]) -> bool:
    values = [one["logprob"] for one in top]
    return values == sorted(values, reverse=True) and all(value <= 0 for value in values)


def _of_usage(case: Case, reply: Reply) -> Iterator[str]:
    usage = reply.usage
    if usage is None:
        yield "no usage"
        return
    most = len(reply.choices) * int(str(case.body["max_tokens"]))
    asked, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
    if not (0 < usage["completion_tokens"] <= most and 0 <= cached < asked):
        yield f"impossible usage: {usage}"


def is_of(form: Form, text: str) -> bool:
    """Whether a text is of the form that was asked for."""
    if form.choices:
        return text in form.choices
    if form.pattern is not None:
        return re.fullmatch(form.pattern, text) is not None
    if form.schema is None:
        return True
    try:
        return jsonschema.Draft202012Validator(form.schema).is_valid(json.loads(text))
    except ValueError:
        return False
