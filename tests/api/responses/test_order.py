import json
from typing import Any

import pytest

from app.api.media.attachments import Attachments
from app.api.responses.items import completed
from app.api.responses.order import Input, to_conversation, to_generation, to_toolbox
from app.api.responses.truncation import shortened
from app.core.conversation import Conversation, Message, RawPrompt, Reasoning, ToolCall
from app.core.output_format import JsonObject, JsonSchema
from app.core.requests import GenerationRequest, Sampling
from app.errors import InvalidRequest
from app.schemas.responses import ResponseRequest
from app.schemas.responses_items import ItemReference, MessageItem


def body_of(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate_json(json.dumps({"input": "x"} | fields))


def input_of(body: ResponseRequest) -> Input:
    if isinstance(body.input, str):
        return Input([], completed([MessageItem(role="user", content=body.input)]))
    return Input([], completed([item for item in body.input or () if not isinstance(item, ItemReference)]))


def conversation_of(**fields: Any) -> Conversation:
    body = body_of(**fields)
    given = input_of(body)
    return to_conversation(body, given, to_toolbox(body, given), Attachments())


def generation_of(**fields: Any) -> GenerationRequest:
    return to_generation(body_of(**fields), conversation_of(**fields))


def test_a_bare_request() -> None:
    assert generation_of() == GenerationRequest(Conversation([Message("user", "x")]))


def test_every_field_arrives() -> None:
    request = generation_of(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=4,
        presence_penalty=1,
        frequency_penalty=-1,
        stop=["a", "b"],
        top_logprobs=2,
        prompt_cache_key="key",
        reasoning={"effort": "low"},
        text={"verbosity": "low", "format": {"type": "json_object"}},
        repetition_guard=5,
    )
    assert request == GenerationRequest(
        Conversation(
            [Message("system", "Be brief."), Message("user", "x")],
            reasoning=Reasoning(effort="low"),
            template_arguments={"verbosity": "low"},
        ),
        Sampling(temperature=0.5, top_p=0.9, top_k=3, seed=4, presence_penalty=1, frequency_penalty=-1),
        max_tokens=9,
        stop=("a", "b"),
        output_format=JsonObject(),
        top_logprobs=2,
        cache_namespace="key",
        repetition_guard=5,
    )


def test_the_answer_keeps_to_a_schema() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object", "b": 1, "a": None}, "strict": True}
    expected = JsonSchema('{"type":"object","b":1,"a":null}', "n", strict=True)
    assert generation_of(text={"format": form}).output_format == expected
    assert generation_of(text={"format": {"type": "text"}}).output_format is None


@pytest.mark.parametrize("missing", ["name", "schema"])
def test_a_schema_needs_what_it_needs(missing: str) -> None:
    form = {"type": "json_schema", "name": "n", "schema": {}}
    del form[missing]
    with pytest.raises(InvalidRequest) as caught:
        generation_of(text={"format": form})
    assert (caught.value.param, caught.value.error_code) == (f"text.format.{missing}", "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 1}, 1),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_logprobs_are_asked_for_in_two_ways(fields: dict[str, Any], expected: int | None) -> None:
    assert generation_of(**fields).top_logprobs == expected


@pytest.mark.parametrize("given", [None, []])
def test_something_must_be_said(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation_of(input=given)
    assert caught.value.param == "input"
    assert conversation_of(input=given, instructions="Speak.").messages == [Message("system", "Speak.")]


def test_tools_come_with_items_too() -> None:
    one, two = ({"type": "function", "name": name} for name in ("one", "two"))
    items = [
        {"role": "user", "content": "x"},
        {"type": "additional_tools", "role": "developer", "tools": [one, two]},
        {"type": "tool_search_output", "call_id": "1", "tools": [two]},
    ]
    use = conversation_of(input=items, tools=[one]).tools
    assert use is not None
    assert [tool.name for tool in use.tools] == ["one", "two"]


SYSTEM, HI, BYE = Message("system", "s"), Message("user", "hi"), Message("user", "bye")
CALL = Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),))
TOOL = Message("tool", "done", tool_call_id="1")
DONE = Message("assistant", "done")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([HI], []),
        ([SYSTEM, HI], []),
        ([SYSTEM, HI, DONE, BYE], [[SYSTEM, BYE]]),
        ([HI, SYSTEM, DONE, BYE], [[SYSTEM, BYE]]),
        ([HI, CALL, TOOL, TOOL, DONE], [[CALL, TOOL, TOOL, DONE], [DONE]]),
        ([HI, DONE, BYE, CALL, TOOL, DONE], [[BYE, CALL, TOOL, DONE], [DONE]]),
        ([HI] * 10, [[HI] * 9, [HI] * 7, [HI] * 3, [HI]]),
        ([TOOL, HI, BYE], [[HI, BYE], [BYE]]),
    ],
)
def test_less_and_less_of_the_beginning(messages: list[Message], expected: list[list[Message]]) -> None:
    request = GenerationRequest(Conversation(messages, template_arguments={"a": 1}), max_tokens=5)
    found = list(shortened(request))
    assert [one.prompt.messages for one in found if isinstance(one.prompt, Conversation)] == expected
    for one in found:
        assert isinstance(one.prompt, Conversation)
        assert (one.max_tokens, one.prompt.template_arguments) == (5, {"a": 1})


def test_a_raw_prompt_is_not_shortened() -> None:
    assert list(shortened(GenerationRequest(RawPrompt("a")))) == []
