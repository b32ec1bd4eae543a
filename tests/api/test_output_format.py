"""What form an answer must have, from the wire to the worker."""

import json
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.types import Message

from app.api.bodies import read_body
from app.api.chat.routes import to_generation
from app.api.media.attachments import Attachments
from app.core.frames import Submit
from app.core.output_format import Choice, JsonObject, JsonSchema, Lark, OutputFormat, Regex
from app.errors import InvalidRequest
from app.schemas.chat import ChatCompletionRequest

SCHEMA = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"enum": ["é", None, 1.5]}}}
TEXT = json.dumps(SCHEMA, ensure_ascii=False, separators=(",", ":"))


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, **fields}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


async def asked(raw: str = "", **fields: Any) -> OutputFormat | None:
    """The format of a request with these fields; `raw` is JSON to put among them."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], **fields})
    if raw:
        body = f"{body[:-1]}, {raw}}}"

    async def receive() -> Message:
        return {"type": "http.request", "body": body.encode()}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    return to_generation(await read_body(request, ChatCompletionRequest), Attachments()).output_format


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonObject()),
        ({"response_format": json_schema()}, JsonSchema(TEXT, "thing")),
        ({"response_format": json_schema(strict=True, description="A thing.")}, JsonSchema(TEXT, "thing", strict=True)),
        ({"guided_json": SCHEMA}, JsonSchema(TEXT)),
        ({"guided_json": json.dumps(SCHEMA)}, JsonSchema(TEXT)),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["b", "a"]}, Choice(("b", "a"))),
        ({"guided_grammar": 'start: "a"'}, Lark('start: "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, JsonSchema(TEXT)),
        ({"structured_outputs": {"json": TEXT}}, JsonSchema(TEXT)),
        ({"structured_outputs": {"json_object": True}}, JsonObject()),
        ({"structured_outputs": {"regex": "a+", "json_object": False}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["b", "a"], "disable_any_whitespace": True}}, Choice(("b", "a"))),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Lark('start: "a"')),
        ({"response_format": {"type": "text"}, "guided_regex": "a+"}, Regex("a+")),
    ],
)
async def test_each_way_of_asking_is_understood(fields: dict[str, Any], expected: OutputFormat | None) -> None:
    assert await asked(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": "json"}, "response_format", "object"),
        ({"response_format": {}}, "response_format.type", "required"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": json_schema(name="a b")}, "response_format.json_schema.name", "'a b'"),
        ({"response_format": json_schema(name="n" * 65)}, "response_format.json_schema.name", "pattern"),
        ({"response_format": json_schema(schema=None)}, "response_format.json_schema.schema", "object"),
        ({"response_format": json_schema(schema=[])}, "response_format.json_schema.schema", "object"),
        ({"response_format": json_schema(strict="yes")}, "response_format.json_schema.strict", "boolean"),
        ({"response_format": json_schema(schema=nested(65))}, "response_format.json_schema.schema", "64 levels"),
        (
            {"response_format": json_schema(schema={"title": "x" * 2**18})},
            "response_format.json_schema.schema",
            "262144",
        ),
        ({"guided_json": 5}, "guided_json", "object"),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_json": "[]"}, "guided_json", "JSON object"),
        ({"guided_json": '{"title": "\\ud800"}'}, "guided_json", "surrogates"),
        ({"guided_json": '{"maximum": NaN}'}, "guided_json", "not valid JSON"),
        ({"guided_json": '{"maximum": 1%s}' % ("0" * 5000)}, "guided_json", "not valid JSON"),
        ({"guided_json": "[" * 200_000}, "guided_json", "64 levels"),
        ({"guided_json": json.dumps(nested(65))}, "guided_json", "64 levels"),
        ({"guided_json": " " * 2**18 + "{}"}, "guided_json", "262144"),
        ({"guided_regex": ""}, "guided_regex", "empty"),
        ({"guided_regex": "é" * 2**13 + "x"}, "guided_regex", "16384"),
        ({"guided_choice": []}, "guided_choice", "at least one"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]", "empty"),
        ({"guided_choice": ["a", 5]}, "guided_choice[1]", "string"),
        ({"guided_choice": ["a"] * 1001}, "guided_choice", "1000"),
        ({"guided_choice": ["x" * 40_000, "y" * 40_000]}, "guided_choice", "65536"),
        ({"guided_grammar": ""}, "guided_grammar", "empty"),
        ({"guided_grammar": "x" * 2**17}, "guided_grammar", "65536"),
        ({"structured_outputs": {}}, "structured_outputs", "needs one of"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "needs one of"),
        ({"structured_outputs": {"json": "5"}}, "structured_outputs.json", "JSON object"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex", "string"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]", "empty"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported"),
        ({"structured_outputs": {"regex": "a", "json_object": True}}, "structured_outputs.regex", "both"),
        ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json", "'response_format' and"),
        ({"guided_regex": "a", "guided_choice": ["a"], "guided_grammar": "x"}, "guided_choice", "give one"),
    ],
)
async def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(**fields)
    assert caught.value.param == param
    assert says in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
async def test_a_number_that_json_has_not_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON") as caught:
        await asked(f'"guided_json": {{"maximum": {number}}}')
    assert caught.value.param == "guided_json"


async def test_the_largest_that_fits_is_taken() -> None:
    assert isinstance(await asked(guided_json=nested(64)), JsonSchema)
    assert isinstance(await asked(guided_json={"title": "x" * (2**18 - 12)}), JsonSchema)
    assert isinstance(await asked(guided_regex="é" * 2**13), Regex)
    assert isinstance(await asked(guided_choice=[str(index) for index in range(1000)]), Choice)
    assert isinstance(await asked(guided_grammar="x" * 2**16), Lark)


@pytest.mark.parametrize(
    "output_format",
    [None, JsonObject(), JsonSchema(TEXT, "thing", strict=True), Regex("a+"), Choice(("b", "a")), Lark('start: "a"')],
)
async def test_it_travels_to_the_worker(output_format: OutputFormat | None) -> None:
    body = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "Hello!"}]})
    sent = Submit(7, msgspec.structs.replace(to_generation(body, Attachments()), output_format=output_format))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Submit) == sent
