"""Tools and reasoning through OpenAI's own client: an agent's rounds, forced and free, on a random model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from tests.e2e.conftest import StartServer
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import END_TOKEN, chat

CALCULATE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "operation": {"enum": ["add", "multiply"]},
        "numbers": {
            "type": "array",
            "items": {"type": "integer", "minimum": -9, "maximum": 9},
            "minItems": 2,
            "maxItems": 3,
        },
    },
    "required": ["operation", "numbers"],
    "additionalProperties": False,
}
WRITE_FILE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": {
            "type": "object",
            "properties": {"name": {"enum": ["a.txt", "b.txt"]}, "append": {"type": "boolean"}},
            "required": ["name", "append"],
            "additionalProperties": False,
        },
        "content": {"type": "string", "maxLength": 12},
    },
    "required": ["place", "content"],
    "additionalProperties": False,
}
SCHEMAS = {"calculate": CALCULATE, "write_file": WRITE_FILE}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
THINKING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# closed by </think> #}"
)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


def run_tool(call: ChatCompletionMessageFunctionToolCall, files: dict[str, str]) -> str:
    """What the agent does with a call, whose arguments have to be what the schema says."""
    arguments = json.loads(call.function.arguments)
    Draft202012Validator(SCHEMAS[call.function.name]).validate(arguments)
    if call.function.name == "calculate":
        numbers: list[int] = arguments["numbers"]
        return str(sum(numbers))
    place = arguments["place"]
    before = files.get(place["name"], "") if place["append"] else ""
    files[place["name"]] = before + arguments["content"]
    return "written"


def answered(client: OpenAI, messages: list[Any], *, is_streamed: bool, **fields: Any) -> Any:
    """The message of a reply, put together from a stream by the client's own means if need be."""
    asked: dict[str, Any] = {"model": "x", "messages": messages, "tools": TOOLS, "max_tokens": 300, **fields}
    if not is_streamed:
        reply = client.chat.completions.create(**asked)
        return reply.choices[0].message, reply.choices[0].finish_reason
    with client.chat.completions.stream(**asked) as stream:
        choice = stream.get_final_completion().choices[0]
    return choice.message, choice.finish_reason


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_agent_calculates_writes_and_answers(client: OpenAI, is_streamed: bool) -> None:
    files: dict[str, str] = {}
    messages: list[Any] = [{"role": "user", "content": "Add the numbers and write the sum into a file."}]
    rounds: list[Any] = ["required", {"type": "function", "function": {"name": "write_file"}}, "none"]
    for choice in rounds:
        asked = {"tool_choice": choice, "temperature": 1, "seed": 7, "parallel_tool_calls": False}
        # The random model would go on for ever: in the last round it has nothing to say.
        ending = {"logit_bias": {str(END_TOKEN): 100}} if choice == "none" else {}
        message, reason = answered(client, messages, is_streamed=is_streamed, **asked, **ending)
        if choice == "none":
            assert message.tool_calls is None
            assert reason == "stop"
            break
        assert reason == "tool_calls"
        (call,) = message.tool_calls
        assert choice == "required" or call.function.name == "write_file"
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": run_tool(call, files)})
    assert len(messages) == 5
    assert files


@pytest.mark.parametrize("seed", range(6))
def test_forced_calls_are_valid_and_have_ids_of_their_own(client: OpenAI, seed: int) -> None:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    reply = client.chat.completions.create(
        model="x", messages=messages, tools=TOOLS, tool_choice="required", temperature=1, seed=seed, max_tokens=400
    )
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason in ("tool_calls", "length")
    assert message.content is None
    calls = message.tool_calls or []
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function"
        Draft202012Validator(SCHEMAS[call.function.name]).validate(json.loads(call.function.arguments))


def test_a_call_streams_its_name_first_and_then_its_arguments(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="x",
        messages=[{"role": "user", "content": "hello"}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "write_file"}},
        temperature=1,
        seed=3,
        stream=True,
    )
    deltas = [delta for chunk in stream for choice in chunk.choices for delta in choice.delta.tool_calls or []]
    first, *others = deltas
    assert first.function is not None
    assert (first.index, first.type, first.function.name, first.function.arguments) == (0, "function", "write_file", "")
    assert first.id
    assert len(others) > 3
    assert all(delta.id is None and delta.function is not None and delta.function.name is None for delta in others)
    arguments = "".join(delta.function.arguments or "" for delta in others if delta.function)
    Draft202012Validator(WRITE_FILE).validate(json.loads(arguments))


@pytest.mark.parametrize("seed", range(4))
def test_a_strict_function_is_held_to_its_schema_when_the_model_calls_it_by_itself(
    server: ServerProcess, tiny_model: Path, seed: int
) -> None:
    tools = [tool | {"function": tool["function"] | {"strict": True}} for tool in TOOLS]
    opening = str(token_of(tiny_model, "<tool_call>"))
    # The bias makes the model call; that the call can go on at all is the grammar's doing.
    reply = server.post(
        chat(tools=tools, temperature=1, seed=seed, max_tokens=400, logit_bias={opening: 30}, parallel_tool_calls=False)
    ).json()
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    Draft202012Validator(SCHEMAS[call["function"]["name"]]).validate(json.loads(call["function"]["arguments"]))


def token_of(model: Path, text: str) -> int:
    added = json.loads((model / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    return next(token["id"] for token in added if token["content"] == text)


def test_without_tools_markup_is_text(server: ServerProcess, tiny_model: Path) -> None:
    bias = {str(token_of(tiny_model, "<tool_call>")): 100}
    reply = server.post(chat(logit_bias=bias, max_tokens=3)).json()
    assert reply["choices"][0]["message"]["content"] == "<tool_call>" * 3


def test_several_choices_call_each_for_itself(server: ServerProcess) -> None:
    reply = server.post(chat(tools=TOOLS, tool_choice="required", n=3, temperature=1, seed=1, max_tokens=300)).json()
    calls = [call for choice in reply["choices"] for call in choice["message"]["tool_calls"]]
    assert len({call["id"] for call in calls}) == len(calls) >= 3


def test_a_schema_and_tools_together_give_one_or_the_other(server: ServerProcess, tiny_model: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    kinds: set[str] = set()
    opening = str(token_of(tiny_model, "<tool_call>"))
    for bias in (-100, 100):
        asked = {"logit_bias": {opening: bias}, "parallel_tool_calls": False}
        body = chat(tools=TOOLS, response_format=form, temperature=1, seed=1, max_tokens=300, **asked)
        message = server.post(body).json()["choices"][0]["message"]
        if calls := message.get("tool_calls"):
            kinds.add("call")
            for call in calls:
                Draft202012Validator(SCHEMAS[call["function"]["name"]]).validate(
                    json.loads(call["function"]["arguments"])
                )
        else:
            kinds.add("answer")
            Draft202012Validator(schema).validate(json.loads(message["content"]))
    assert kinds == {"call", "answer"}


def test_an_impossible_schema_is_refused_and_named(client: OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "text"}}}},
    }
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(
            model="x",
            messages=[{"role": "user", "content": "hello"}],
            tools=[tool],
            tool_choice="required",
        )
    assert raised.value.param == "tools"
    assert "'f'" in raised.value.message


@pytest.fixture(scope="module")
def thinker(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model whose prompt opens its reasoning."""
    folder = tmp_path_factory.mktemp("thinker")
    (folder / "template.jinja").write_text(THINKING_TEMPLATE)
    with ServerProcess(
        folder, "--model-path", tiny_model, "--chat-template-file", folder / "template.jinja"
    ) as running:
        yield running.wait_until_ready()


class TestReasoning:
    def test_is_told_apart_counted_and_ended_by_its_budget(self, thinker: ServerProcess, tiny_model: Path) -> None:
        keep_thinking = {str(token_of(tiny_model, "</think>")): -100, "2": -100}
        body = chat(max_tokens=40, logit_bias=keep_thinking, thinking_token_budget=10)
        reply = thinker.post(body).json()
        message = reply["choices"][0]["message"]
        assert message["reasoning_content"]
        assert "</think>" not in message["reasoning_content"] + message["content"]
        assert message["content"]
        assert 10 <= reply["usage"]["completion_tokens_details"]["reasoning_tokens"] < 20
        unlimited = thinker.post(chat(max_tokens=40, logit_bias=keep_thinking)).json()
        assert unlimited["usage"]["completion_tokens_details"]["reasoning_tokens"] == 40
        assert unlimited["choices"][0]["message"]["content"] == ""

    def test_streams_beside_the_answer(self, thinker: ServerProcess, tiny_model: Path) -> None:
        body = chat(max_tokens=40, thinking_token_budget=6, temperature=1, seed=2, logit_bias={"2": -100})
        whole = thinker.post(body).json()["choices"][0]["message"]
        with OpenAI(base_url=f"{thinker.url}/v1", api_key="none") as client:
            extra = {"thinking_token_budget": 6}
            sampled = {"max_tokens": 40, "temperature": 1, "seed": 2, "logit_bias": {"2": -100}}
            chunks = list(
                client.chat.completions.create(
                    model="x",
                    messages=body["messages"],
                    stream=True,
                    extra_body=extra,
                    **sampled,  # type: ignore[call-overload]
                )
            )
        deltas: list[dict[str, Any]] = [choice.delta.model_dump() for chunk in chunks for choice in chunk.choices]
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == whole["reasoning_content"]
        assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"]

    def test_comes_before_an_answer_of_some_form_and_before_a_forced_call(self, thinker: ServerProcess) -> None:
        schema = {
            "type": "object",
            "properties": {"x": {"type": "boolean"}},
            "required": ["x"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        body = chat(max_tokens=120, thinking_token_budget=8, temperature=1, seed=1)
        message = thinker.post(body | {"response_format": form}).json()["choices"][0]["message"]
        assert message["reasoning_content"]
        Draft202012Validator(schema).validate(json.loads(message["content"]))
        asked = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 300, "parallel_tool_calls": False}
        message = thinker.post(body | asked).json()["choices"][0]["message"]
        assert message["reasoning_content"]
        (call,) = message["tool_calls"]
        Draft202012Validator(SCHEMAS[call["function"]["name"]]).validate(json.loads(call["function"]["arguments"]))

    @pytest.mark.parametrize(("mode", "has_markers"), [("inline", True), ("strip", False)])
    def test_can_be_inline_or_left_out(
        self, tiny_model: Path, tmp_path: Path, start_server: StartServer, mode: str, has_markers: bool
    ) -> None:
        template = tmp_path / "template.jinja"
        template.write_text(THINKING_TEMPLATE)
        server = start_server("--model-path", tiny_model, "--chat-template-file", template, "--reasoning", mode)
        body = chat(max_tokens=40, thinking_token_budget=6, logit_bias={"2": -100})
        message = server.wait_until_ready().post(body).json()["choices"][0]["message"]
        assert "reasoning_content" not in message
        assert message["content"].startswith("<think>\n") == has_markers
        assert ("</think>" in message["content"]) == has_markers
