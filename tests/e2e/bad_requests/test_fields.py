"""Fields of a chat request that are wrong, out of range or not supported: each is named."""

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from app.schemas.chat import ChatCompletionRequest
from tests.e2e.bad_requests.refusal import assert_refused
from tests.e2e.processes import ServerProcess
from tests.e2e.wire import CHAT, chat

FIELDS = ChatCompletionRequest.model_fields
# One value of each JSON type; none of them asks for nothing in a field that is not supported.
VALUES = (True, 7, 1.5, "text", [7], {"key": 7})
TOOL = {"type": "function", "function": {"name": "f"}}
CHOICE = {"type": "function", "function": {"name": "g"}}


def json_types(annotation: Any) -> set[type]:
    """The Python types of the JSON values that a field takes; none where it takes anything, or nothing."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return {one for part in get_args(annotation) for one in json_types(part)}
    if origin is Annotated:
        return json_types(get_args(annotation)[0])
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if annotation in (Any, NoneType):
        return set()
    if annotation is float:
        return {int, float}
    plain = origin or annotation
    return {plain} if plain in (str, int, bool, list, dict) else {dict}


class TestFields:
    @pytest.mark.parametrize("field", FIELDS)
    def test_of_a_wrong_type_is_named(self, server: ServerProcess, field: str) -> None:
        accepted = json_types(FIELDS[field].annotation)
        for value in VALUES:
            if type(value) not in accepted:
                reply = server.post(chat() | {field: value})
                assert reply.status_code == 400, (field, value)
                assert_refused(reply, field, param=reply.json()["error"]["param"])
                assert reply.json()["error"]["param"].split("[")[0].split(".")[0] == field

    @pytest.mark.parametrize("field", [name for name, one in FIELDS.items() if {int} <= json_types(one.annotation)])
    def test_that_is_a_number_must_be_a_possible_one(self, server: ServerProcess, field: str) -> None:
        for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e30", "1" + 30 * "0", "-1" + 400 * "0"):
            content = json.dumps(chat() | {field: "NUMBER"}).replace('"NUMBER"', number)
            assert_refused(server.send("POST", CHAT, content.encode()), field, param=field)
        content = json.dumps(chat() | {field: "NUMBER"}).replace('"NUMBER"', "1" + 5000 * "0")
        assert_refused(server.send("POST", CHAT, content.encode()), "out of range", code="invalid_json")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.1),
            ("temperature", 2.1),
            ("top_p", 0),
            ("top_p", -1),
            ("top_p", 1.1),
            ("top_k", -1),
            ("min_p", -0.1),
            ("min_p", 1.1),
            ("repetition_penalty", 0),
            ("repetition_penalty", -1),
            ("presence_penalty", -2.1),
            ("frequency_penalty", 2.1),
            ("max_tokens", 0),
            ("max_tokens", -5),
            ("max_completion_tokens", 0),
            ("seed", 2**63),
            ("typical_p", 0),
            ("typical_p", 1.1),
            ("xtc_probability", -0.1),
            ("xtc_probability", 1.1),
            ("xtc_threshold", -0.1),
            ("xtc_threshold", 0.6),
            ("dry_multiplier", -1),
            ("dry_base", 0.9),
            ("dry_allowed_length", 0),
            ("dry_penalty_last_n", -2),
            ("repetition_guard", 1),
            ("repetition_guard", 1001),
            ("n", 0),
            ("n", -1),
            ("top_logprobs", -1),
            ("top_logprobs", 21),
        ],
    )
    def test_out_of_range_is_named(self, server: ServerProcess, field: str, value: float) -> None:
        assert_refused(server.post(chat() | {field: value}), f"'{field}'", param=field)

    @pytest.mark.parametrize(
        ("fields", "param", "says"),
        [
            ({"stop": ""}, "stop", "empty"),
            ({"stop": ["a", ""]}, "stop", "empty"),
            ({"stop": ["a", 5]}, "stop[1]", "string"),
            ({"stop": ["a"] * 65}, "stop", "64"),
            ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", "boolean"),
            ({"metadata": {"key": 5}}, "metadata.key", "string"),
            ({"logit_bias": {"fox": 1}}, "logit_bias", "token ids"),
            ({"logit_bias": {"5": 101}}, "logit_bias", "100"),
            ({"logit_bias": {"5": "x"}}, "logit_bias", "number"),
            ({"logit_bias": {"-1": 1}}, "logit_bias", "-1"),
            ({"logit_bias": {"999999": 1}}, "logit_bias", "999999"),
            ({"logit_bias": {"99999999999999999999": 1}}, "logit_bias", "99999999999999999999"),
            ({"dry_sequence_breakers": ["a", 5]}, "dry_sequence_breakers[1]", "string"),
            ({"dry_sequence_breakers": ["a", ""]}, "dry_sequence_breakers", "1 to 40"),
            ({"dry_sequence_breakers": ["a" * 41]}, "dry_sequence_breakers", "1 to 40"),
            ({"dry_sequence_breakers": ["a"] * 65}, "dry_sequence_breakers", "64"),
            ({"dry_sequence_breakers": '["a", 5]'}, "dry_sequence_breakers", "list of strings"),
            ({"dry_sequence_breakers": "a"}, "dry_sequence_breakers", "list of strings"),
            ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
            ({"tool_choice": "required"}, "tool_choice", "no 'tools'"),
            ({"tools": [TOOL], "tool_choice": CHOICE}, "tool_choice", "'g'"),
            ({"reasoning_effort": "huge"}, "reasoning_effort", "'huge'"),
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "'messages'"),
            ({"chat_template_kwargs": {"number": 10**30}}, "chat_template_kwargs", "ints"),
            ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs", "cannot set"),
        ],
    )
    def test_with_wrong_contents_is_named(
        self, server: ServerProcess, fields: dict[str, object], param: str, says: str
    ) -> None:
        assert_refused(server.post(chat() | fields), says, param=param)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("functions", [{"name": "f"}]),
            ("function_call", {"name": "f"}),
            ("modalities", ["audio"]),
            ("audio", {"voice": "alloy"}),
            ("prediction", {"type": "content", "content": "x"}),
            ("web_search_options", {}),
            ("ignore_eos", True),
            ("stop_token_ids", [1]),
            ("prompt_logprobs", 1),
            ("best_of", 3),
            ("chat_template", "x"),
            ("verbosity", "low"),
            ("service_tier", "flex"),
        ],
    )
    def test_that_is_not_supported_is_never_ignored(self, server: ServerProcess, field: str, value: object) -> None:
        reply = server.post(chat() | {field: value})
        assert_refused(reply, f"'{field}' is not supported", param=field, code="unsupported_parameter")

    def test_that_nobody_knows_is_ignored(self, server: ServerProcess) -> None:
        assert server.post(chat(max_tokens=1, no_such_field={"a": [1]})).status_code == 200

    def test_that_asks_for_nothing_is_accepted(self, server: ServerProcess) -> None:
        nothing = {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "tool_choice": "none"}
        unset = {name: None for name in FIELDS if name != "messages"}
        assert server.post(chat(max_tokens=1) | nothing).status_code == 200
        assert server.post(chat() | unset | {"max_tokens": 1}).status_code == 200
